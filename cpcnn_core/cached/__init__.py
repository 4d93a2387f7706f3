"""The network with a memory: what one more pixel needs is kept, so that a pixel costs one pixel's work.

A full forward pass per pixel computes everything again (Ramachandran et al. 2017, "Fast Generation for Convolutional
Autoregressive Models"). Here the u stream, which sees only the rows above, is computed once per row; the ul stream once
per pixel; the half and quarter resolutions where a pixel of theirs is due, which is every 4th and 16th:

      row or column of the image   0  1  2  3  4  5  6  7  ...
      full resolution              x  x  x  x  x  x  x  x
      half                         x     x     x     x
      quarter                      x           x

    before the first pixel: weight norm folded, modulations per class, all memory allocated

    once per row, for all its columns at once           once per pixel, from left to right

      the row above
            |
            +------------------------.                    the pixel to the left <----------------.
            v                        v                              |                            |
      +-----------+     +-------------------------+                 v                            |
      | stem of u |     | stem of ul: its share   |---->  + the share of the left pixel          |
      +-----------+     +-------------------------+                 |                            |
            v                                                       v                            |
      +-----------+     +-------------------------+       +-------------------+                  |
      | u, up     |---->| ul, up: upper row's     |------>| ul, up: now's row |                  |
      | full      |     | share of each conv,     |       | full              |                  |
      |  half     |     | bias, label, skip from u|       |  half             |                  |
      |   quarter |     +-------------------------+       |   quarter         |                  |
      +-----------+                                       +-------------------+                  |
            | skips                                                 | skips                      |
            v                                                       v                            |
      +-----------+     +-------------------------+       +-------------------+                  |
      |   quarter |     | ul, down: the same      |------>|   quarter         |                  |
      |  half     |---->|                         |       |  half             |                  |
      | full      |     +-------------------------+       | full              |                  |
      | u, down   |                                       | ul, down: now's   |                  |
      +-----------+                                       +-------------------+                  |
                                                                    v                            |
                                                             head (last 1x1)                     |
                                                                    v                            |
                                                             draw the pixel ---------------------'

What makes it fast on a CPU:

- Activations are stored as (column, channel, image). The taps of a convolution then lie in one piece of memory,
  whichever column it is at: it is a matrix product of its weights with a view of the row, and nothing is gathered.
- Every convolution is two rows high. The upper row's share (half of the ul stream's work), the bias, the label's share
  and the ul stream's view of the u stream are known when a row starts, and are computed for the row at once.
- A concat-ELU is computed once per activation, straight into the memory of the convolution that reads it first.
- Weight norm is folded, and the label's modulations are computed per class, before the first pixel.
- All memory is allocated and every view taken in advance. The work of a row is a list of calls without arguments, one
  of three lists (every 4th row, the other even rows, odd rows), which is also what a CUDA graph captures.

Modules, each importing only those before it: `ops` records calls; `parts` are convolutions, blocks, stem and head with
their memory; `streams` join them to u and ul; `draw` draws a pixel from the head's output; `network` runs it all.
"""

from cpcnn_core.cached.network import CachedNetwork as CachedNetwork
from cpcnn_core.cached.ops import Ops as Ops
from cpcnn_core.cached.ops import run as run
