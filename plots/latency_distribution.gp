# Every timed sample of every cell at one batch size, with quartiles and median.
#
#   gnuplot -c latency_distribution.gp IN.dat OUT.svg TITLE FOOTER BATCH
#   gnuplot -c latency_distribution.gp latency_distribution_batch1.dat out.svg "samples" "by hand" 1
#
# IN.dat, tab-separated, warm-ups left out, block 0 (a row per sample):
#   1 row of the cell  2 lane within the row (-0.4 first round … 0.4 last)  3 milliseconds  4 outlier (0 or 1)
#   5 round (from 0)  6 series (0 baseline)
# block 1 (a row per cell): 1 row  2 number and label  3 series  4 simulated  5 lower quartile  6 median
#   7 upper quartile  8 remark: number of samples and outliers
# A tick per sample; crosses are outliers (kept in all numbers). The axis spans the samples that are not outliers;
# outliers beyond it stand at its right end, and the remark names the slowest. It turns logarithmic when its ends
# differ more than fourfold. Colours: Okabe and Ito's; grey reads on light and dark.

dat = ARG1
grey = "#767676"

set encoding utf8
set minussign
set datafile separator "\t"
stats dat index 0 using (int($4) ? NaN : $3) name "X" nooutput
stats dat index 1 using 1 name "R" nooutput
n = int(R_max)
logarithmic = X_max > 4 * X_min
pad = X_max > X_min ? 0.06 * (X_max - X_min) : 0.1 * X_max
x_lo = logarithmic ? X_min / 1.1 : X_min - pad
x_hi = logarithmic ? X_max * 1.2 : X_max + pad

height = 190 + 40 * n
set terminal svg size 1040,height dynamic noenhanced font "sans-serif,14" name "latency_distribution"
set output ARG2

array Color[6] = [0x0072B2, 0xD55E00, 0x009E73, 0xCC79A7, 0xE69F00, 0x56B4E9]
color(series) = int(series) == 0 ? 0x767676 : Color[1 + (int(series) - 1) % 6]

set border 1 lc rgb grey
set tics textcolor rgb grey
set key off
set label 1 ARG3 at screen 0.012, screen 1.0 - 24.0 / height left tc rgb grey font "sans-serif,16"
set label 2 ARG4 at screen 0.012, screen 30.0 / height left tc rgb grey font "sans-serif,11"
set label 3 "samples" at screen 0.835, screen 1.0 - 48.0 / height left tc rgb grey font "sans-serif,12"
set label 4 "faster" at graph 0.045, screen 1.0 - 48.0 / height left tc rgb grey font "sans-serif,13"
set arrow 1 from graph 0.04, screen 1.0 - 49.0 / height to graph 0.0, screen 1.0 - 49.0 / height lw 2 lc rgb grey filled
set lmargin at screen 0.285
set rmargin at screen 0.825
set tmargin at screen 1.0 - 60.0 / height
set bmargin at screen 104.0 / height
set yrange [n + 0.6 : 0.4]
set xlabel sprintf("milliseconds per batch of %s%s", ARG5, logarithmic ? " (logarithmic axis)" : "") tc rgb grey
set xtics nomirror
set ytics scale 0 font "sans-serif,12"
set grid xtics lc rgb grey lw 0.3
if (logarithmic) {
    set logscale x
    set xtics ()
    do for [e = -4:5] { do for [m in "1 2 5"] { set xtics add (sprintf("%g", m * 10.0 ** e) m * 10.0 ** e) } }
}
set xrange [x_lo:x_hi]
set style fill empty

# ticks as short vertical lines; boxes and the median over them; outliers last
plot dat index 0 using (int($4) ? NaN : $3):($1 + $2 - 0.035):(0):(0.07):(color($6)) with vectors nohead lw 1 lc rgb variable, \
     dat index 1 using 6:1:5:7:($1 - 0.44):($1 + 0.44):(color($3)):ytic(2) with boxxyerror lw 1.2 lc rgb variable, \
     dat index 1 using 6:($1 - 0.44):(0):(0.88) with vectors nohead lw 3 lc rgb grey, \
     dat index 0 using (int($4) && $3 <= x_hi ? $3 : NaN):($1 + $2):(color($6)) with points pt 2 ps 0.6 lw 1.5 lc rgb variable, \
     dat index 0 using (int($4) && $3 > x_hi ? x_hi : NaN):($1 + $2):(color($6)) with points pt 2 ps 0.6 lw 1.5 lc rgb variable, \
     dat index 1 using (x_hi):1:8 with labels left offset 1.2, 0 font "sans-serif,12" tc rgb grey
