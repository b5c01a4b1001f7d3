/* cpu.c: which ISA levels this machine has. Compiled without ISA flags, so that it runs anywhere. */
#include "pn.h"

#if defined(__x86_64__) || defined(__i386__)
static int machine_level(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2"))
        return PN_ISA_BASE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl"))
        return PN_ISA_MID;
    return PN_ISA_WIDE;
}
#else
static int machine_level(void) { return PN_ISA_BASE; }
#endif

int pn_isa_best(void) {
    int level = machine_level();
    while (level > PN_ISA_BASE && !pn_isa_name(level)) level--;
    return level;
}
