"""Write the reference of the public functions into docs/api."""

from pathlib import Path

import pdoc

import physgen

# pdoc documents what a module holds, and these names are imported when they are asked for.
for name in physgen.__all__:
    getattr(physgen, name)
pdoc.render.configure(docformat="google")
pdoc.pdoc("physgen", output_directory=Path(__file__).parent / "api")
