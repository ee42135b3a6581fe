"""Page geometry of the two-column paper: what figures, tables and the template have to agree on."""

MARGINS = "top=2.2cm,bottom=2.4cm,left=1.8cm,right=1.8cm,columnsep=.8cm"  # of an A4 page

# Widths in which figures are drawn: a little less than the paper has.
COLUMN_INCHES = 3.22
PAGE_INCHES = 6.8

# The same for tables, in TeX's points (72.27 to the inch), and the height of a column.
COLUMN_POINTS = 232
PAGE_POINTS = 490
COLUMN_HEIGHT = 600

# Sizes of print in points, the largest first, and the LaTeX commands that switch to them.
PRINT_SIZES = {9: "small", 8: "footnotesize", 7: "scriptsize"}
