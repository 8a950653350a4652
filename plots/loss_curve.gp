# The loss of every stage that trained, step by step, with the scores taken on the way: one panel per kind of stage.
#
#   gnuplot -c loss_curve.gp IN.dat OUT.svg TITLE FOOTER PANELS LOGARITHMIC ROWS SCORE_LABEL
#   gnuplot -c loss_curve.gp loss_curve.dat out.svg "loss" "by hand" "finetune distill" "0 1" "3 2" "accuracy, %"
#
# Words, one a panel: PANELS their names, LOGARITHMIC whether the axis of the loss is (0 or 1), ROWS of their legends.
# SCORE_LABEL "": there are no scores. IN.dat, tab-separated, block 0 (a row per curve): 1 panel (from 1)  2 curve of
# the panel (from 1)  3 legend. Block 1 (a row per step, an empty line between curves): 1 panel  2 curve  3 step  4 loss
# 5 its mean over neighbouring steps. Block 2 likewise: 1 panel  2 curve  3 step  4 score on the validation split.
# Colours: Okabe and Ito's, safe for colour-blind readers; grey reads on light and dark.

dat = ARG1
grey = "#767676"
panels = words(ARG5)
scored = strlen(ARG8) > 0

set encoding utf8
set minussign
set datafile separator "\t"
set datafile missing "NaN"

rows(p) = int(word(ARG7, p))
tall(p) = 62 + (rows(p) * 20 > 240 ? rows(p) * 20 : 240)
height = 130
do for [p = 1:panels] { height = height + tall(p) }
set terminal svg size 1040,height dynamic noenhanced font "sans-serif,14" name "loss_curve"
set output ARG2

array Color[7] = [0x0072B2, 0xD55E00, 0x009E73, 0xCC79A7, 0xE69F00, 0x56B4E9, 0x767676]
color(curve) = Color[1 + (int(curve) - 1) % 7]
faint(curve) = color(curve) + 0xB0000000 # alpha in the top byte
of(panel, p, value) = int(panel) == p ? value : NaN

set multiplot
set border 11 lc rgb grey
set tics textcolor rgb grey
set key off
set label 1 ARG3 at screen 0.012, screen 1.0 - 24.0 / height left tc rgb grey font "sans-serif,16"
set label 2 ARG4 at screen 0.012, screen 30.0 / height left tc rgb grey font "sans-serif,11"

top = height - 44
do for [p = 1:panels] {
    bottom = top - tall(p) + 62
    set tmargin at screen 1.0 * (top - 26) / height
    set bmargin at screen 1.0 * (bottom - 26) / height
    set label 3 word(ARG5, p) at screen 0.012, screen 1.0 * (top - 10) / height left tc rgb grey font "sans-serif,14"

    # ranges that are set hide points from stats
    unset logscale y
    set autoscale
    stats dat index 1 using (of($1, p, $4)) name "L" nooutput
    stats dat index 1 using (of($1, p, $5)) name "M" nooutput
    stats dat index 1 using (of($1, p, $3)) name "X" nooutput
    # stats removes the names that it does not set: a panel without scores has no S_records
    if (scored) { stats dat index 2 using (of($1, p, $4)) name "S" nooutput }
    scores = exists("S_records") ? S_records : 0

    # the curves
    logarithmic = int(word(ARG6, p))
    set lmargin at screen 0.085
    set rmargin at screen 0.645
    set border 11
    set xrange [0 : X_max > 1 ? 1.01 * X_max : 1]
    set xlabel "step" tc rgb grey
    set xtics nomirror format "%g"
    set ylabel sprintf("loss%s", logarithmic ? " (logarithmic axis)" : "") tc rgb grey
    set ytics nomirror format "%g"
    set grid ytics lc rgb grey lw 0.3
    pad = M_max > M_min ? 0.08 * (M_max - M_min) : 0.1
    if (logarithmic) {
        set logscale y
        set yrange [M_min / 1.3 : M_max * 1.3]
    } else {
        # the axis spans the means; single batches may leave it
        set yrange [M_min - pad - 0.25 * (M_min - L_min) : M_max + pad]
    }
    if (scores > 0) {
        room = S_max > S_min ? 0.1 * (S_max - S_min) : 1.0
        set y2label ARG8 tc rgb grey offset -0.5, 0
        set y2tics nomirror format "%g"
        set y2range [S_min - room : S_max + room]
    }
    if (scores > 0) {
        plot dat index 1 using 3:(of($1, p, $4)):(faint($2)) with lines lw 1 lc rgb variable, \
             dat index 1 using 3:(of($1, p, $5)):(color($2)) with lines lw 2.2 lc rgb variable, \
             dat index 2 using 3:(of($1, p, $4)):(color($2)) axes x1y2 with lines lw 1.2 dt (3, 4) lc rgb variable, \
             dat index 2 using 3:(of($1, p, $4)):(color($2)) axes x1y2 with points pt 7 ps 0.75 lc rgb variable
    } else {
        plot dat index 1 using 3:(of($1, p, $4)):(faint($2)) with lines lw 1 lc rgb variable, \
             dat index 1 using 3:(of($1, p, $5)):(color($2)) with lines lw 2.2 lc rgb variable
    }

    # the legend: a row per curve at the panel's right, from its top
    unset label 1
    unset label 2
    unset label 3
    unset y2label
    unset y2tics
    unset xlabel
    unset ylabel
    unset xtics
    unset ytics
    unset grid
    unset logscale y
    set border 0
    set lmargin at screen 0.73
    set rmargin at screen 0.99
    set xrange [0:1]
    set yrange [1.0 * (top - bottom) / 20.0 + 0.5 : 0.5]
    plot dat index 0 using (0.0):(of($1, p, $2)):(0.07):(0):(color($2)) with vectors nohead lw 4 lc rgb variable, \
         dat index 0 using (0.1):(of($1, p, $2)):3 with labels left font "sans-serif,12" tc rgb grey
    top = top - tall(p)
}
unset multiplot
