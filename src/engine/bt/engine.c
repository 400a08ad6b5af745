// SPDX-License-Identifier: MIT
/* The engine as the machine sees it: life of its parts, what it needs of the host, its figures. */
#include <asm/prctl.h>
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/hostfault.h"
#include "base/log.h"
#include "engine/bt/helpers.h"
#include "engine/bt/runtime.h"
#include "engine/interp/interp.h"

static int probe(char *why, size_t size)
{
	u32 a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & BIT(27)) || /* OSXSAVE */
	    !__get_cpuid(0x80000001, &a, &b, &c, &d) || !(c & BIT(0)) /* LAHF */) {
		snprintf(why, size, "the processor lacks XSAVE or LAHF in 64-bit code");
		return -ENOTSUP;
	}
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	snprintf(why, size, "built with a sanitizer, whose code uses the guest's vector registers");
	return -ENOTSUP;
#endif
	snprintf(why, size, "works on this processor");
	return 0;
}

static void vm_fini(struct vm *vm)
{
	struct bt_vm *bt = vm->engine_vm;

	if (!bt)
		return;
	vm->pmap->code_hook = NULL;
	bt_xlate_destroy(bt);
	bt_cache_destroy(bt);
	free(bt);
	vm->engine_vm = NULL;
}

static int vm_setup(struct vm *vm)
{
	struct bt_vm *bt = calloc(1, sizeof(*bt));
	int err;

	if (!bt)
		return -ENOMEM;
	vm->engine_vm = bt;
	bt->vm = vm;
	err = vm->pmap->bt_hva ? 0 : pmap_create_protected(vm->pmap);
	if (!err)
		err = bt_cache_create(bt, vm->pmap->ram_size);
	if (!err && bt_xlate_create(bt))
		err = -ENOMEM;
	if (err) {
		vm_fini(vm);
		return err;
	}
	ZydisDecoderInit(&bt->decoder[0], ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&bt->decoder[1], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	bt_priv_of(bt)->hook = (struct pmap_code_hook){
		.marked = bt_code_marked, .written = bt_code_written, .arg = bt};
	vm->pmap->code_hook = &bt_priv_of(bt)->hook;
	return 0;
}

static void vcpu_fini(struct vcpu *v)
{
	struct x86_cpu *c = vcpu_x86(v);

	c->tlb_flushed = NULL;
	c->tlb_page_flushed = NULL;
	hostfault_clear(bt_host_fault, bt_of(c)); /* tests run on this thread */
	bt_cpu_destroy(bt_of(c));
	interp_detach(c);
	v->engine_state = NULL;
}

static int vcpu_setup(struct vcpu *v)
{
	struct x86_cpu *c = vcpu_x86(v);
	int err = interp_attach(c);

	if (err)
		return err;
	err = bt_cpu_create(v->vm->engine_vm, c);
	if (err) {
		log_error("bt: cannot set up vCPU %u: %s", v->index, strerror(-err));
		vcpu_fini(v);
		return err;
	}
	v->engine_state = bt_of(c);
	c->tlb_flushed = bt_tlb_flushed;
	c->tlb_page_flushed = bt_tlb_page_flushed;
	mmu_flush_all(c); /* entries from before have no address in bt_hva */
	return 0;
}

int bt_thread_init(struct bt_cpu *b)
{
	/* glibc and the compiler don't use %gs in 64-bit programs: it may stay. */
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, b->c))
		return -errno;
	return hostfault_set(bt_host_fault, b);
}

static void kick(struct vcpu *v)
{
	bt_kick(v->engine_state);
}

static void debug_changed(struct vcpu *v)
{
	x86_update_step(vcpu_x86(v));
	mmu_flush_all(vcpu_x86(v)); /* watched pages must come to the slow path */
}

/* The largest `n` of sum(k), with their names, on a line each. */
static void print_most(struct vm *vm, FILE *out, const char *title, unsigned nr, unsigned n,
                       u64 (*count)(const struct bt_cpu *, unsigned), const char *(*name)(unsigned))
{
	u64 limit = ~0ull;

	for (unsigned lines = 0; lines < n;) {
		u64 best = 0;

		for (int print = 0; print < 2; print++)
			for (unsigned k = 0; k < nr; k++) {
				u64 sum = 0;

				for (unsigned i = 0; i < vm->nr_vcpus; i++)
					sum += count(bt_of(vcpu_x86(vm->vcpu[i])), k);
				if (!print && sum < limit)
					best = MAX(best, sum);
				if (print && best && sum == best)
					fprintf(out, "  %s %-*s %14llu\n", title,
					        (int)(29 - strlen(title)), name(k),
					        (unsigned long long)sum);
				lines += print && sum == best;
			}
		if (!best)
			return;
		limit = best;
	}
}

static u64 helped(const struct bt_cpu *b, unsigned k)
{
	return b->helped[k];
}

static const char *helper_name(unsigned k)
{
	return bt_helper_names[k];
}

static u64 interpreted(const struct bt_cpu *b, unsigned k)
{
	return b->interpreted[k];
}

static const char *mnemonic_name(unsigned k)
{
	return ZydisMnemonicGetString((ZydisMnemonic)k);
}

static void print_stats(struct vm *vm, FILE *out)
{
	static const struct {
		u8 stat;
		const char *name;
	} rows[] = {
		{BT_STAT_TRANSLATED, "units translated"},
		{BT_STAT_GUEST_INSNS, "guest instructions in them"},
		{BT_STAT_HOST_BYTES, "bytes of host code"},
		{BT_STAT_EXITS, "direct exits taken"},
		{BT_STAT_LINKS, "of these linked"},
		{BT_STAT_LOOKUPS, "indirect look-ups"},
		{BT_STAT_MISSES, "TLB misses of sites"},
		{BT_STAT_INTERP, "instructions by interp"},
		{BT_STAT_FAULTS, "host exceptions"},
		{BT_STAT_SMC, "of these stores to code pages"},
		{BT_STAT_SUP_DROPS, "supervisor's sites emptied"},
		{BT_STAT_FLUSHES, "full flushes"},
	};
	const struct bt_vm *bt = vm->engine_vm;

	fprintf(out, "code cache: %u of %u KiB, %u pages, %u units, %u entries\n",
	        (bt->cache.used + bt->cache.size - bt->cache.cold_low) >> 10, bt->cache.size >> 10,
	        bt->nr_pages, bt->nr_units, bt->nr_entries);
	for (size_t r = 0; r < ARRAY_SIZE(rows); r++) {
		u64 sum = 0;

		for (unsigned i = 0; i < vm->nr_vcpus; i++)
			sum += bt_of(vcpu_x86(vm->vcpu[i]))->stat[rows[r].stat];
		if (sum)
			fprintf(out, "  %-30s %14llu\n", rows[r].name, (unsigned long long)sum);
	}
	if (bt_priv_of(vm->engine_vm)->invalidated)
		fprintf(out, "  %-30s %14llu\n", "code pages invalidated",
		        (unsigned long long)bt_priv_of(vm->engine_vm)->invalidated);
	print_most(vm, out, "helper", BT_NR_HELPERS, 16, helped, helper_name);
	print_most(vm, out, "interp", ZYDIS_MNEMONIC_MAX_VALUE + 1, 16, interpreted, mnemonic_name);
}

const struct engine_ops bt_engine = {
	.name = "bt",
	.summary = "binary translation: fast without hardware virtualization",
	.probe = probe,
	.vm_create = vm_setup,
	.vm_destroy = vm_fini,
	.vcpu_create = vcpu_setup,
	.vcpu_destroy = vcpu_fini,
	.run = bt_run,
	.kick = kick,
	.debug_changed = debug_changed,
	.print_stats = print_stats,
};
