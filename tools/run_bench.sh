#!/bin/bash
# Run the micro-benchmarks given after the build directory, on one thread and on all. Facts about the machine go
# first: a number without them says nothing. For timings that mean something, let nothing else run.
build=$1
shift
load=$(cut -d' ' -f1 /proc/loadavg)
echo "host: $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2- | xargs), $(nproc) CPUs, $(awk '/MemTotal/ {printf "%.1f GiB", $2 / 1048576}' /proc/meminfo), kernel $(uname -r)"
echo "caches: $(for c in /sys/devices/system/cpu/cpu0/cache/index*; do echo -n "L$(cat "$c/level") $(tr "[:upper:]" "[:lower:]" <"$c/type") $(cat "$c/size"), "; done 2>/dev/null | sed 's/, $//')"
echo "governor: $(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null || echo unknown); load: $load"
if awk "BEGIN {exit !($load > 0.5)}"; then echo "warning: the machine is busy (load $load); these timings will be noisy"; fi
for name in OPENBLAS_CORETYPE OPENBLAS_L2_SIZE; do
    if [ -n "${!name}" ]; then echo "warning: $name=${!name} is set and changes what OpenBLAS runs; unset it"; fi
done
case $build in */release) ;; *) echo "warning: $build is not a release build" ;; esac
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
status=0
for bench in "$@"; do
    for threads in $(printf '1\n%s\n' "$(nproc)" | sort -un); do
        echo
        echo "$(basename "$bench"), $threads thread(s)"
        "$bench" "$threads" || status=1
    done
done
exit $status
