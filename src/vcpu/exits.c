// SPDX-License-Identifier: MIT
#include "vcpu/exits.h"

static const char *const exit_names[EXIT_NR] = {
#define X(id, name) [EXIT_##id] = name,
	EXIT_REASONS(X)
#undef X
};

static const char *const exception_names[32] = {
	"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9",   "#TS",
	"#NP", "#SS", "#GP", "#PF", "15",  "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
	"22",  "23",  "24",  "25",  "26",  "27",  "28",  "29",  "30",  "31",
};

void exit_stats_print(const struct exit_stats *const *stats, unsigned nr, FILE *out)
{
	struct exit_stats sum = {0};

	for (unsigned i = 0; i < nr; i++) {
		sum.timed |= stats[i]->timed;
		sum.insns += stats[i]->insns;
		for (unsigned r = 0; r < EXIT_NR; r++) {
			sum.count[r] += stats[i]->count[r];
			sum.ns[r] += stats[i]->ns[r];
		}
		for (unsigned e = 0; e < 32; e++)
			sum.exception[e] += stats[i]->exception[e];
	}
	fprintf(out, "%-14s %14s %12s %10s\n", "exit reason", "count", "time ms", "ns each");
	for (unsigned r = 0; r < EXIT_NR; r++) {
		if (!sum.count[r])
			continue;
		fprintf(out, "%-14s %14llu", exit_names[r], (unsigned long long)sum.count[r]);
		if (sum.ns[r])
			fprintf(out, " %12.3f %10llu", (double)sum.ns[r] / 1e6,
			        (unsigned long long)(sum.ns[r] / sum.count[r]));
		fputc('\n', out);
	}
	for (unsigned e = 0; e < 32; e++)
		if (sum.exception[e])
			fprintf(out, "  exception %-4s %12llu\n", exception_names[e],
			        (unsigned long long)sum.exception[e]);
	if (sum.insns)
		fprintf(out, "%-14s %14llu\n", "instructions", (unsigned long long)sum.insns);
}
