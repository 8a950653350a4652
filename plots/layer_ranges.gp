# Ranges chosen for the inputs of layers over the histograms of these inputs: a row per layer.
#
#   gnuplot -c layer_ranges.gp IN.dat OUT.svg TITLE FOOTER ROWS MEMBERS
#   gnuplot -c layer_ranges.gp layer_ranges.dat out.svg "ranges" "by hand" 12 3
#
# IN.dat, tab-separated, block 0: 1 row (from 1)  2 layer  3 largest magnitude of its input, which is 1 on the axis. Block 1
# (a row per box of a histogram): 1 row  2 left  3 right  4 count, of the fullest box. Block 2: 1 member (from 1)  2 row
# 3 low  4 high. Block 3: 1 member  2 legend; one more than MEMBERS where some are not drawn.
# Colours: Okabe and Ito's, safe for colour-blind readers; grey reads on light and dark.

dat = ARG1
grey = "#767676"
rows = int(ARG5)
members = int(ARG6)

set encoding utf8
set minussign
set datafile separator "\t"
set datafile missing "NaN"

each = 12 + 4 * members > 18 ? 12 + 4 * members : 18
tall = rows * each > 120 ? rows * each : 120
legend = 22 * (members + 1)
height = 124 + tall + legend
set terminal svg size 1040,height dynamic noenhanced font "sans-serif,14" name "layer_ranges"
set output ARG2

array Color[7] = [0x0072B2, 0xD55E00, 0x009E73, 0xCC79A7, 0xE69F00, 0x56B4E9, 0x767676]
color(member) = Color[1 + (int(member) - 1) % 7]
# alpha in the top byte: from 200 for a ten-thousandth of the fullest box to 40 for the fullest
depth(share) = share < 1e-4 ? 0 : 1 + log10(share) / 4
faint(share) = 0x767676 + int(200 - 160 * depth(share)) * 0x1000000
place(row, member) = row - 0.4 + 0.8 * (member - 0.5) / members

set multiplot
set border 1 lc rgb grey
set tics textcolor rgb grey
set key off
set label 1 ARG3 at screen 0.012, screen 1.0 - 24.0 / height left tc rgb grey font "sans-serif,16"
set label 2 ARG4 at screen 0.012, screen (12.0) / height left tc rgb grey font "sans-serif,11"
set tmargin at screen 1.0 - 44.0 / height
set bmargin at screen (80.0 + legend) / height
set lmargin at screen 0.27
set rmargin at screen 0.98
set xrange [-1.02:1.02]
set yrange [rows + 0.6:0.4]
set xlabel "value of the input, of the largest magnitude seen" tc rgb grey font "sans-serif,11"
set xtics -1, 0.25, 1 nomirror format "%g" font "sans-serif,11"
set ytics scale 0 nomirror font "sans-serif,11"
set grid xtics lc rgb grey lw 0.3
set style fill solid 1.0 noborder
plot dat index 1 using (0.5 * ($2 + $3)):1:2:3:($1 - 0.46):($1 + 0.46):(faint($4)) with boxxyerror lc rgb variable, \
     dat index 2 using 3:(place($2, $1)):($4 - $3):(0):(color($1)) with vectors nohead lw 2 lc rgb variable, \
     dat index 2 using 3:(place($2, $1) - 0.18):(0):(0.36):(color($1)) with vectors nohead lw 2 lc rgb variable, \
     dat index 2 using 4:(place($2, $1) - 0.18):(0):(0.36):(color($1)) with vectors nohead lw 2 lc rgb variable, \
     dat index 0 using (0):1:ytic(sprintf("%s  %g", strcol(2), $3)) with dots lc rgb grey

unset label 1
unset label 2
unset xlabel
unset xtics
unset ytics
unset grid
set border 0
set tmargin at screen (legend + 14.0) / height
set bmargin at screen 20.0 / height
set lmargin at screen 0.27
set rmargin at screen 0.93
set xrange [0:1]
set yrange [members + 1.5:0.5]
plot dat index 3 using (0.0):1:(0.05):(0):(color($1)) with vectors nohead lw 4 lc rgb variable, \
     dat index 3 using (0.07):1:2 with labels left font "sans-serif,12" tc rgb grey
unset multiplot
