# What is lost when one layer alone is quantized, and the bytes that this saves: a row per layer.
#
#   gnuplot -c layer_sensitivity.gp IN.dat OUT.svg TITLE FOOTER ROWS ERROR_LABEL SCORE_LABEL
#   gnuplot -c layer_sensitivity.gp layer_sensitivity.dat out.svg "layers" "by hand" 12 "KL divergence, nats" ""
#
# SCORE_LABEL "": no score was asked for. IN.dat, tab-separated: 1 row (from 1)  2 layer  3 error of the model's outputs
# 4 score lost  5 bytes saved  6 whether the layer was kept in f32 (1) or not (0).
# Colours: Okabe and Ito's, safe for colour-blind readers; grey reads on light and dark.

dat = ARG1
grey = "#767676"
rows = int(ARG5)
scored = strlen(ARG7) > 0

set encoding utf8
set minussign
set datafile separator "\t"
set datafile missing "NaN"

tall = rows * 18 > 120 ? rows * 18 : 120
height = 112 + tall
set terminal svg size 1040,height dynamic noenhanced font "sans-serif,14" name "layer_sensitivity"
set output ARG2

kept(value, flag) = flag == 1 ? value : NaN
packed(value, flag) = flag == 1 ? NaN : value

# ticks that leave room for their texts: some three over a span
power(span) = 10.0 ** floor(log10(span / 3.0))
tick(span) = power(span) * (span / 3.0 / power(span) < 2 ? 2 : span / 3.0 / power(span) < 5 ? 5 : 10)
stats dat using 5 name "B" nooutput
S_records = 0
if (scored) { stats dat using 4 name "S" nooutput }

set multiplot
set border 1 lc rgb grey
set tics textcolor rgb grey
set key off
set label 1 ARG3 at screen 0.012, screen 1.0 - 24.0 / height left tc rgb grey font "sans-serif,16"
set label 2 ARG4 at screen 0.012, screen 12.0 / height left tc rgb grey font "sans-serif,11"
set tmargin at screen 1.0 - 44.0 / height
set bmargin at screen 68.0 / height
set yrange [rows + 0.6:0.4]
set ytics scale 0 nomirror font "sans-serif,11"
set xtics nomirror format "%g" font "sans-serif,11"
set grid xtics ytics lc rgb grey lw 0.3
middle = scored ? 0.56 : 0.78

set lmargin at screen 0.27
set rmargin at screen middle - 0.02
set logscale x
set format x "1e%L"
set xlabel ARG6 tc rgb grey offset 0, 0.4 font "sans-serif,11"
plot dat using (packed($3, $6)):1 with points pt 7 ps 0.9 lc rgb 0x0072B2, \
     dat using (kept($3, $6)):1 with points pt 6 ps 0.9 lw 2 lc rgb 0xD55E00, \
     dat using 3:1:ytic(2) with dots lc rgb grey
unset logscale x
set format x "%g"
unset label 1
unset label 2
set format y ""
unset ytics
set grid xtics lc rgb grey lw 0.3

if (scored) {
    set lmargin at screen 0.59
    set rmargin at screen 0.77
    set xlabel sprintf("lost: %s", ARG7) tc rgb grey offset 0, 0.4 font "sans-serif,11"
    if (S_max > S_min) { set xtics tick(S_max - S_min) }
    plot dat using (packed($4, $6)):1 with points pt 7 ps 0.9 lc rgb 0x0072B2, \
         dat using (kept($4, $6)):1 with points pt 6 ps 0.9 lw 2 lc rgb 0xD55E00
}

set lmargin at screen 0.82
set rmargin at screen 0.98
set xrange [0:*]
if (B_max > 0) { set xtics tick(B_max / 1024.0) }
set xlabel "KiB saved" tc rgb grey offset 0, 0.4 font "sans-serif,11"
plot dat using (0):1:($5 / 1024):(0) with vectors nohead lw 5 lc rgb grey
unset multiplot
