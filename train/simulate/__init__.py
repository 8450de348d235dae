"""Weak marks simulated from full masks, as a reader would draw them."""

from wsseg.train.simulate.draw import KINDS as KINDS
from wsseg.train.simulate.draw import PAINTERS as PAINTERS
from wsseg.train.simulate.draw import TOUCHING_CORNERS as TOUCHING_CORNERS
from wsseg.train.simulate.draw import MarkOptions as MarkOptions
from wsseg.train.simulate.draw import background_stroke as background_stroke
from wsseg.train.simulate.draw import components as components
from wsseg.train.simulate.draw import deepest as deepest
from wsseg.train.simulate.draw import depth as depth
from wsseg.train.simulate.draw import disc_mark as disc_mark
from wsseg.train.simulate.draw import erode_mark as erode_mark
from wsseg.train.simulate.draw import extremes_of as extremes_of
from wsseg.train.simulate.draw import generator as generator
from wsseg.train.simulate.draw import marked_rows as marked_rows
from wsseg.train.simulate.draw import medial_line as medial_line
from wsseg.train.simulate.draw import paint_marks as paint_marks
from wsseg.train.simulate.draw import point_mark as point_mark
from wsseg.train.simulate.draw import random_disc_mark as random_disc_mark
from wsseg.train.simulate.draw import random_point_mark as random_point_mark
from wsseg.train.simulate.draw import stroke_mark as stroke_mark
from wsseg.train.simulate.table import MEASURES as MEASURES
from wsseg.train.simulate.table import simulate_marks as simulate_marks
