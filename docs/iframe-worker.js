// A page that is opened from the disk may start no worker, and the search of the site is one. Here it runs in a hidden
// frame instead. mkdocs-material loads the like from another host; this is its place, named so that it is found.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inside = this.frame.contentWindow;
      const begin = `<script>
        postMessage = (data) => parent.postMessage(data, "*");
        importScripts = (...urls) => urls.reduce((done, url) => done.then(() => new Promise((loaded, failed) => {
          const script = document.createElement("script");
          Object.assign(script, { src: url, onload: loaded, onerror: failed });
          document.body.appendChild(script);
        })), Promise.resolve());
      <\/script><script src="${url}"><\/script>`;
      this.ready = new Promise((loaded) => this.frame.addEventListener("load", loaded));
      inside.document.open();
      inside.document.write(`<!doctype html><body>${begin}</body>`);
      inside.document.close();
      addEventListener("message", (event) => {
        if (event.source !== this.frame.contentWindow) return;
        event.stopImmediatePropagation();
        const heard = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(heard);
        if (this.onmessage) this.onmessage(heard);
      });
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
