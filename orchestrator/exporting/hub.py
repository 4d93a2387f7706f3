"""The Hugging Face Hub: where an exported folder can be uploaded, `hf://USER/NAME`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from cpcnn_core.errors import RunError, UserError
from orchestrator.text import calling

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

SCHEME = "hf://"
CARD = "README.md"  # what the Hub shows of a repository, and reads the card's header of
_SECONDS = (10.0, 60.0, 60.0, 10.0)  # to connect, read, write, and get a connection; its own client waits for ever


class AddressError(UserError, ValueError):
    """No address of a repository, or nobody who may write to it."""


class PushError(RunError):
    """A folder that could not be uploaded."""


@dataclass(frozen=True)
class Repository:
    """A repository of models."""

    user: str  # or an organisation
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raise AddressError where it is no address of one."""
        from huggingface_hub import parse_hf_uri
        from huggingface_hub.errors import HfUriError

        try:
            address = parse_hf_uri(text)
        except HfUriError as error:
            raise AddressError(f"--push {text}: expected {SCHEME}USER/NAME ({_reason(error)})") from None
        user, _, name = address.id.partition("/")
        made = cls(user, name)
        if address.type != "model" or str(made) != text:
            raise AddressError(f"--push {text}: expected {SCHEME}USER/NAME, a repository of models and nothing in it")
        return made

    @classmethod
    def ready(cls, text: str) -> Self:
        """One that can be written to. Raise AddressError, PushError."""
        made = cls.parse(text)
        made.check()
        return made

    @property
    def id(self) -> str:
        """As the Hub calls it."""
        return f"{self.user}/{self.name}"

    def __str__(self) -> str:
        """As a user types it."""
        return f"{SCHEME}{self.id}"

    def check(self) -> None:
        """See that the Hub answers, and that whoever the token is of may write there. Raise AddressError, PushError.

        The token comes from where `hf auth login` puts it, or from HF_TOKEN; nothing here reads or shows it.
        """
        from huggingface_hub import get_token

        if _asked(f"--push {self}", get_token) is None:
            raise AddressError(f"--push {self}: there is no token; `hf auth login` asks for one, or set HF_TOKEN")
        me = _asked(f"--push {self}", _client().whoami)
        names = {str(me.get("name")), *(str(each.get("name")) for each in me.get("orgs") or ())}
        if self.user not in names:
            listed = ", ".join(sorted(names))
            raise AddressError(f"--push {self}: the token is of {listed}, and does not write to {self.user}")
        role = ((me.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise AddressError(f"--push {self}: the token may only read; one that may write is made in the settings")

    def push(self, folder: Path) -> str:
        """Upload an exported folder in one commit; return where it is seen. A repository that is new is private.

        Raise PushError, with what to type to try again.
        """
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.utils.tqdm import disable_progress_bars

        from orchestrator.exporting import folder as folder_of

        disable_progress_bars()
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        files[CARD] = folder / folder_of.CARD

        def upload() -> str:
            api = _client()
            url = api.create_repo(self.id, private=True, exist_ok=True)
            added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
            api.create_commit(self.id, added, commit_message=f"Add {folder.name}")
            return str(url)

        later = calling.again("export", str(folder), "--push", str(self))
        return _asked(f"not uploaded to {self}", upload, way_out=f"{folder} is whole. To upload it later: {later}")


def _client() -> HfApi:
    from huggingface_hub import HfApi, get_session

    get_session().timeout = _SECONDS
    return HfApi()


def _asked(what: str, action: Callable[[], T], *, way_out: str = "nothing was done") -> T:
    """What the Hub answers. Raise PushError."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import OIDCError

    try:
        return action()
    except (HTTPError, OIDCError, OSError, RuntimeError, ValueError) as error:
        # Of the network, of the server's answers, of the client's own checks.
        raise PushError(f"{what}: {_reason(error)}; {way_out}") from None


def _reason(error: BaseException) -> str:
    """The first line of it, and of what led to it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = (lines[0] if lines else type(error).__name__).rstrip(".")
    return own if error.__cause__ is None else f"{own} ({_reason(error.__cause__)})"
