"""Coverage and width of the intervals of ratios, beside CARE's."""
