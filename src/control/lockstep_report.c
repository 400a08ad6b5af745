// SPDX-License-Identifier: MIT
/* What a difference looks like: one line that says what, then registers, memory, the way there as
 * the interpreter went it, and the inputs. */
#include "control/lockstep_priv.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <Zydis/Zydis.h>

#include "base/log.h"

#define SHOWN_STEPS 48u

static const char *const gpr_name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/* In today's mode: right but for what lies before a change of mode. */
static unsigned disassemble(struct lockstep *ls, u64 rip, char *text, size_t size)
{
	const struct x86_cpu *s = ls->s;
	ZydisMachineMode m = s->mode & M_CS64   ? ZYDIS_MACHINE_MODE_LONG_64
	                     : s->mode & M_CS32 ? ZYDIS_MACHINE_MODE_LEGACY_32
	                                        : ZYDIS_MACHINE_MODE_LEGACY_16;
	ZydisDisassembledInstruction i;
	unsigned len = 0;
	u8 buf[15];

	while (len < sizeof(buf) &&
	       !mmu_debug_rw(ls->s, rip + s->segbase[CS] + len, buf + len, 1, false))
		len++;
	if (!len) {
		snprintf(text, size, "(not mapped now)");
		return 0;
	}
	if (!ZYAN_SUCCESS(ZydisDisassembleIntel(m, rip, buf, len, &i))) {
		snprintf(text, size, "(bad)");
		return 0;
	}
	snprintf(text, size, "%s", i.text);
	return i.info.length;
}

static const struct ls_step *trail_at(const struct lockstep *ls, u64 n)
{
	return &(ls->near_trail ? ls->near_steps : ls->trail)[n % LS_TRAIL];
}

/* Registers after step n that it changed. */
static void print_changes(const struct lockstep *ls, u64 n, u64 end, const struct x86_cpu *after,
                          FILE *out)
{
	const struct ls_step *t = trail_at(ls, n);
	const u64 *g = n + 1 < end ? trail_at(ls, n + 1)->gpr : after->gpr;
	u64 fl = n + 1 < end ? trail_at(ls, n + 1)->aflags : after->aflags;

	for (unsigned r = 0; r < 16; r++)
		if (g[r] != t->gpr[r])
			fprintf(out, " %s=%llx", gpr_name[r], (unsigned long long)g[r]);
	if ((fl ^ t->aflags) & AFLAGS)
		fprintf(out, " fl=%03llx", (unsigned long long)(fl & AFLAGS));
	fputc('\n', out);
}

static void print_trail(struct lockstep *ls, u64 end, const struct x86_cpu *after, FILE *out)
{
	u32 steps = ls->nr_pass ? ls->pass[(ls->nr_pass - 1) % LS_PASSES].steps : 0;
	u64 n = MIN(steps, 2 * SHOWN_STEPS);

	n = MAX(n, (u64)SHOWN_STEPS);
	n = MIN(n, end);

	fputs("interp's last instructions, and what each changed:\n", out);
	for (u64 i = end - n; i < end; i++) {
		char text[128];

		disassemble(ls, trail_at(ls, i)->rip, text, sizeof(text));
		fprintf(out, "  %016llx  %-44s", (unsigned long long)trail_at(ls, i)->rip, text);
		print_changes(ls, i, end, after, out);
	}
}

static void print_passes(const struct lockstep *ls, FILE *out)
{
	u64 n = MIN(ls->nr_pass, LS_PASSES);

	fputs("last stretches between boundaries:\n", out);
	for (u64 i = ls->nr_pass - n; i < ls->nr_pass; i++) {
		const struct ls_pass *p = &ls->pass[i % LS_PASSES];

		fprintf(out, "  %016llx to %016llx, %u steps of interp, at instruction %llu\n",
		        (unsigned long long)p->from, (unsigned long long)p->to, p->steps,
		        (unsigned long long)p->insns);
	}
}

static void print_inputs(const struct lockstep *ls, FILE *out)
{
	unsigned n = MIN(ls->nr_last, (unsigned)ARRAY_SIZE(ls->last));

	if (n)
		fputs("last inputs:\n", out);
	for (unsigned i = ls->nr_last - n; i < ls->nr_last; i++)
		ls_input_print(&ls->last[i % ARRAY_SIZE(ls->last)], out);
	if (!ls_queue_empty(&ls->queue))
		fputs("inputs of the engine that interp did not ask for:\n", out);
	for (size_t i = ls->queue.head; i < ls->queue.nr && i < ls->queue.head + 8; i++)
		ls_input_print(&ls->queue.e[i], out);
}

static void print_all(struct lockstep *ls, FILE *out)
{
	const struct x86_cpu *s = ls->near_trail ? ls->near : ls->s;
	u64 end = ls->near_trail ? ls->near_trail : ls->nr_trail;

	fprintf(out, "lockstep: at instruction %llu, boundary %llu\n",
	        (unsigned long long)(ls->near_trail ? ls->insns - (ls->nr_trail - ls->near_trail)
	                                            : ls->insns),
	        (unsigned long long)ls->boundaries);
	fputs("registers that differ:\n", out);
	if (!ls_state_print(ls->p, s, out))
		fputs("  none\n", out);
	/* The shadow may have gone on; its stores with it. */
	fputs("memory that differs:\n", out);
	if (ls_mem_check_all(ls, out))
		fputs("  none\n", out);
	print_trail(ls, end, s, out);
	print_passes(ls, out);
	print_inputs(ls, out);
}

void ls_differ(struct lockstep *ls, const char *fmt, ...)
{
	char why[400], *text = NULL;
	size_t size;
	va_list ap;
	FILE *out;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	ls->over = ls->failed = true;
	x86_fpu_put(ls->s);
	out = open_memstream(&text, &size);
	if (out) {
		print_all(ls, out);
		if (fclose(out) == 0)
			log_text(text);
		free(text);
	}
	vm_end(ls->vm, VM_EXIT_HOST, "lockstep: %s", why);
}
