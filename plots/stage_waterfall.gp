# What each stage of each cell did: quality (left) and bytes of the compressed layers (right), before and after.
#
#   gnuplot -c stage_waterfall.gp IN.dat OUT.svg TITLE FOOTER QUALITY_LABEL
#   gnuplot -c stage_waterfall.gp stage_waterfall.dat out.svg "stages" "by hand" "accuracy, %"
#
# IN.dat, tab-separated, a row per stage in the order of the pipeline:
#   1 row  2 number and label of the cell ("" when it is the row above's)  3 stage  4 quality before  5 after
#   6 bytes before  7 after  8 simulated  9 quality as text  10 bytes as text
# A bar runs from the value before to the value after the stage, where the point is; hollow: simulated.
# Blue: unchanged or higher, vermilion: lower (safe for colour-blind readers); grey reads on light and dark.

dat = ARG1
grey = "#767676"

set encoding utf8
set minussign
set datafile separator "\t"
set datafile missing "NaN"
stats dat using 1 name "R" nooutput
stats dat using 5 name "Q" nooutput
stats dat using 7 name "B" nooutput
n = int(R_max)
mega = B_max >= 2**20 ? 2.0**20 : 2.0**10

height = 170 + 26 * n
set terminal svg size 1040,height dynamic noenhanced font "sans-serif,14" name "stage_waterfall"
set output ARG2

color(before, after) = after < before ? 0xD55E00 : 0x0072B2
shape(simulated) = int(simulated) ? 6 : 7

set multiplot
set border 1 lc rgb grey
set tics textcolor rgb grey
set key off
set label 1 ARG3 at screen 0.012, screen 1.0 - 24.0 / height left tc rgb grey font "sans-serif,16"
set label 2 ARG4 at screen 0.012, screen 30.0 / height left tc rgb grey font "sans-serif,11"
set tmargin at screen 1.0 - 44.0 / height
set bmargin at screen 104.0 / height
set yrange [n + 0.6 : 0.4]
set xtics nomirror
set grid xtics lc rgb grey lw 0.3
unset ytics

# left: names and quality
set lmargin at screen 0.375
set rmargin at screen 0.595
pad = Q_max > Q_min ? 0.1 * (Q_max - Q_min) : 1.0
set xrange [Q_min - pad : Q_max + pad]
set format x "%.2f"
if (Q_max > Q_min) { set xtics Q_min, (Q_max - Q_min) / 2.0, Q_max } else { set xtics autofreq }
set xlabel ARG5 tc rgb grey
plot dat using 4:1:($5 - $4):(0):(color($4, $5)) with vectors nohead lw 6 lc rgb variable, \
     dat using 5:1:(shape($8)):(color(valid(4) ? $4 : $5, $5)) with points ps 1.0 lw 2 pt variable lc rgb variable, \
     dat using (Q_max + pad):1:9 with labels left offset 0.8, 0 font "sans-serif,12" tc rgb grey, \
     dat using (Q_min - pad):1:3 with labels right offset -0.8, 0 font "sans-serif,12" tc rgb grey, \
     dat using (Q_min - pad):1:2 with labels right offset -11.5, 0 font "sans-serif,12" tc rgb grey

# right: bytes
unset label 1
unset label 2
set lmargin at screen 0.735
set rmargin at screen 0.915
set logscale x 2
set xrange [B_min / mega / 1.2 : B_max / mega * 1.2]
set xtics autofreq
set format x "%g"
set xlabel sprintf("compressed layers, %s", mega > 2000 ? "MiB" : "KiB") tc rgb grey
plot dat using ($6 / mega):1:(($7 - $6) / mega):(0):(color($7, $6)) with vectors nohead lw 6 lc rgb variable, \
     dat using ($7 / mega):1:(shape($8)):(color($7, valid(6) ? $6 : $7)) with points ps 1.0 lw 2 pt variable lc rgb variable, \
     dat using (B_max / mega * 1.2):1:10 with labels left offset 0.8, 0 font "sans-serif,12" tc rgb grey
unset multiplot
