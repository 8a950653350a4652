# Quality against latency: one point per cell with intervals on both axes, and the Pareto frontier.
#
#   gnuplot -c quality_latency.gp IN.dat OUT.svg TITLE FOOTER Y_LABEL up|down BASELINE BATCH
#   gnuplot -c quality_latency.gp quality_latency_batch1.dat out.svg "time" "by hand" "accuracy, %" up 91.4 1
#
# Time is the ratio to the baseline's latency, paired by round: left of 1 is faster. up or down: whether a larger y
# is better. BASELINE: its y (NaN: none). IN.dat, tab-separated, block 0 (a row per cell):
#   1 number  2 label  3 series (0 baseline)  4 simulated  5 ratio  6 low  7 high  8 y  9 y low  10 y high
#   11 place of the number: 0 right, then counter-clockwise in steps of 45 degrees
# block 1: Pareto frontier, 1 ratio  2 y
# Colours: Okabe and Ito's, safe for colour-blind readers; shape differs as well. Grey reads on light and dark.

dat = ARG1
better_up = ARG6 ne "down"
baseline = (strlen(ARG7) && ARG7 ne "NaN") ? real(ARG7) : NaN
grey = "#767676"

set encoding utf8
set minussign
set datafile separator "\t"
set datafile missing "NaN"
stats dat index 0 using 5 name "X" nooutput
stats dat index 0 using 6 name "A" nooutput
stats dat index 0 using 7 name "B" nooutput
stats dat index 0 using 9 name "L" nooutput
stats dat index 0 using 10 name "H" nooutput
n = A_records
# one interval that is no evidence must not squeeze all points into a corner: bars are cut at three times the largest ratio
x_max = B_max < 3 * X_max ? B_max : 3 * X_max
x_pad = x_max > A_min ? 0.08 * (x_max - A_min) : 0.1
y_pad = H_max > L_min ? 0.08 * (H_max - L_min) : 1.0
x_lo = A_min - x_pad
x_hi = x_max + x_pad
y_lo = L_min - y_pad
y_hi = H_max + y_pad

height = 560 > 150 + 22 * n ? 560 : 150 + 22 * n
set terminal svg size 1040,height dynamic noenhanced font "sans-serif,14" name "quality_latency"
set output ARG2

array Color[6] = [0x0072B2, 0xD55E00, 0x009E73, 0xCC79A7, 0xE69F00, 0x56B4E9]
array Shape[5] = [5, 7, 9, 11, 15]
color(series) = int(series) == 0 ? 0x767676 : Color[1 + (int(series) - 1) % 6]
shape(series, simulated) = (int(series) == 0 ? 13 : Shape[1 + (int(series) - 1) % 5]) - int(simulated)
array Dx[8] = [1.9, 1.7, 0.0, -1.7, -1.9, -1.7, 0.0, 1.7]
array Dy[8] = [0.0, 0.7, 0.95, 0.7, 0.0, -0.7, -0.95, -0.7]

stats dat index 1 using 1:2 name "P" nooutput
set multiplot
set border lc rgb grey
set tics textcolor rgb grey
set key off
set label 1 ARG3 at screen 0.012, screen 1.0 - 24.0 / height left tc rgb grey font "sans-serif,16"
set label 2 ARG4 at screen 0.012, screen 30.0 / height left tc rgb grey font "sans-serif,11"

# the plot
set lmargin at screen 0.085
set rmargin at screen 0.625
set tmargin at screen 1.0 - 76.0 / height
set bmargin at screen 110.0 / height
set xrange [x_lo:x_hi]
set yrange [y_lo:y_hi]
set xlabel sprintf("time of a batch of %s, as a ratio to the baseline (left is faster)", ARG8) tc rgb grey
set ylabel ARG5 tc rgb grey
set xtics nomirror format "%g"
set ytics nomirror
set arrow 4 from first 1, graph 0 to first 1, graph 1 nohead lc rgb grey dt (6, 6)
if (baseline == baseline) {
    set y2range [y_lo - baseline : y_hi - baseline]
    set y2tics nomirror format "%+g"
    set y2label "difference to the baseline" tc rgb grey offset -0.5, 0
    set arrow 1 from graph 0, first baseline to graph 1, first baseline nohead lc rgb grey dt (6, 6)
}
# which way is better: outside the axes, where no point can be
edge = better_up ? 1.0 - 76.0 / height : 110.0 / height
step = (better_up ? 1.0 : -1.0) / height
set arrow 2 from screen 0.083, screen edge + 12 * step to screen 0.062, screen edge + 34 * step lw 2 lc rgb grey filled
set label 4 "better" at screen 0.058, screen edge + 22 * step right tc rgb grey font "sans-serif,13"

# the frontier goes on to the right at the quality of its last point
set arrow 3 from first P_max_x, first (better_up ? P_max_y : P_min_y) to graph 1, first (better_up ? P_max_y : P_min_y) nohead lc rgb 0xAAAAAA lw 4 dt solid
plot dat index 1 using 1:2 with steps lc rgb 0xAAAAAA lw 4, \
     dat index 0 using ($9 < $10 || $6 < $7 ? $5 : NaN):8:6:7:9:10:(color($3)) with xyerrorbars pt 0 lw 1.5 lc rgb variable, \
     dat index 0 using 5:8:(shape($3, $4)):(color($3)) with points ps 0.9 lw 2 pt variable lc rgb variable, \
     for [k = 0:7] dat index 0 using 5:(int($11) == k ? $8 : NaN):1 with labels \
         offset Dx[k + 1], Dy[k + 1] font "sans-serif,12" tc rgb grey

# the list of cells beside it
unset label
unset arrow
unset xlabel
unset ylabel
unset y2label
unset tics
unset border
set lmargin at screen 0.715
set rmargin at screen 0.995
set tmargin at screen 1.0 - 44.0 / height
set bmargin at screen 70.0 / height
set xrange [0:1]
rows = n < 18 ? 18 : n
set yrange [rows + 2 : -0.5]
set label 1 "filled: executed as stored; hollow: simulated\ngrey line: Pareto frontier" at 0.0, rows + 1.2 left tc rgb grey font "sans-serif,11"
plot dat index 0 using (0.02):($0 + 1):(shape($3, $4)):(color($3)) with points ps 1.0 lw 2 pt variable lc rgb variable, \
     dat index 0 using (0.06):($0 + 1):(sprintf("%d  %s", $1, stringcolumn(2))) with labels \
         left font "sans-serif,12" tc rgb grey
unset multiplot
