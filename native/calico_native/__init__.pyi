from calico_native.py import bitmap as bitmap
from calico_native.py import expression as expression
from calico_native.py import label_index as label_index
from calico_native.py import net as net
from calico_native.py import netns as netns
from calico_native.py import nfnl as nfnl
from calico_native.py import nfrule as nfrule
from calico_native.py import rules as rules

MODULES: tuple[str, ...]
implementation: str
