import sys
from pathlib import Path

# The toys serve child processes too, which import them by name.
sys.path.insert(0, str(Path(__file__).parent))
