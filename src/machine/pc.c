// SPDX-License-Identifier: MIT
/* The `pc` machine: the only place that knows all parts. What a stock kernel expects of a PC: two
 * 8259s, IOAPIC, local APICs, PIT, RTC, COM1, ACPI, a PCI host bridge with virtio devices. Numbers
 * that firmware tables also state come from struct boot_platform. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "boot/boot.h"
#include "cpu/x86/mmu.h"
#include "cpu/x86/x86.h"
#include "dev/acpipm.h"
#include "dev/debugcon.h"
#include "dev/debugexit.h"
#include "dev/fwcfg.h"
#include "dev/i8042.h"
#include "dev/ioapic.h"
#include "dev/lapic.h"
#include "dev/pci.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/port80.h"
#include "dev/pvpanic.h"
#include "dev/rtc.h"
#include "dev/serial.h"
#include "dev/testdev.h"
#include "dev/virtio_balloon.h"
#include "io/console.h"
#include "machine/config.h"
#include "machine/devices.h"
#include "vcpu/vm.h"

#define IOAPIC_VERSION 0x20

/* The PCI hole, 3 to 4 GiB: BARs, configuration space, BARs, the I/O APIC and what else is fixed.
 */
#define PCI_MEM_BASE  PCI_HOLE_START
#define PCI_MEM_LEN   (512 * MiB)
#define PCI_ECAM      0xe0000000ull
#define PCI_MEM2_BASE (PCI_ECAM + BOOT_ECAM_LEN)
#define PCI_MEM2_LEN  (IOAPIC_BASE - PCI_MEM2_BASE)
#define PCI_IO_BASE   0xc000
#define PCI_IO_LEN    0x4000
#define PCI_GSI_BASE  16

struct pc {
	struct vm *vm;
	struct boot_image *image;
	struct boot_state boot;
	struct pic *pic;
	struct lapic_set *lapics;
	struct lapic *bsp_lapic;
	struct acpipm *pm;
	struct pci_host *pci;
	struct machine_devices devices;
	struct boot_platform platform;
	struct chardev *console, *debugcon;
};

/* ---- what devices ask of the machine ---- */

static void on_poweroff(void *arg)
{
	vm_end(arg, VM_EXIT_POWEROFF, "the guest powered off");
}

static void on_acpi_reset(void *arg)
{
	vm_request_reset(arg, "ACPI reset register");
}

static void on_keyboard_reset(void *arg)
{
	vm_request_reset(arg, "keyboard controller");
}

static void on_panic(void *arg)
{
	vm_end(arg, VM_EXIT_PANIC, "the guest's kernel panicked");
}

static void on_debug_exit(void *arg, int code)
{
	vm_end(arg, VM_EXIT_CHOSEN | code, "debug exit, code %d", code);
}

static void on_flush_page(void *arg, gpa_t page)
{
	struct vm *vm = arg;

	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		vcpu_kick(vm->vcpu[i], VCPU_REQ_TLB_FLUSH);
}

static u64 tsc_now(struct vcpu *v)
{
	return x86_tsc(vcpu_x86(v));
}

/* ---- the state in which the first CPU starts ---- */

static void set_seg(struct x86_seg *s, u16 sel, u32 ar)
{
	*s = (struct x86_seg){.sel = sel, .base = 0, .limit = 0xffffffff, .ar = ar};
}

/* Direct boot: the CPU is put where the loader says, as if firmware had left it there. */
static void apply_boot_state(struct x86_cpu *c, void *arg)
{
	const struct pc *pc = arg;
	const struct boot_state *b = &pc->boot;
	u32 code = SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_A | SEG_G;
	u32 data = SEG_P | SEG_S | SEG_RW | SEG_A | SEG_G | SEG_DB;

	if (b->mode == BOOT_REAL16) {
		c->seg[CS].sel = b->cs;
		c->seg[CS].base = (u64)b->cs << 4;
		c->rip = b->rip;
		return;
	}
	c->gpr[RAX] = b->rax;
	c->gpr[RBX] = b->rbx;
	c->gpr[RSI] = b->rsi;
	c->gpr[RSP] = b->rsp;
	c->gpr[RDX] = 0;
	c->rip = b->rip;
	c->cr0 = b->cr0;
	c->cr3 = b->cr3;
	c->cr4 = b->cr4;
	c->efer = b->efer;
	c->gdtr = (struct x86_dtable){.base = b->gdt_base, .limit = b->gdt_limit};
	set_seg(&c->seg[CS], b->cs, code | (b->mode == BOOT_LONG64 ? SEG_L : SEG_DB));
	for (unsigned s = 0; s < NR_SEG; s++)
		if (s != CS)
			set_seg(&c->seg[s], b->ds, data);
	c->tr = (struct x86_seg){.limit = 0x67, .ar = SEG_P | 11};
	c->cpl = 0;
	x86_set_rflags(c, b->rflags);
	x86_update_mode(c);
	mmu_flush_all(c);
}

/* The interrupt controllers as a BIOS hands them over, if there is none to do it. */
static void firmware_interrupts(struct pc *pc)
{
	if (pc->boot.mode == BOOT_REAL16)
		return;
	pic_firmware_init(pc->pic);
	lapic_virtual_wire(pc->bsp_lapic);
}

static int machine_reset(struct vm *vm)
{
	struct pc *pc = vm->machine;
	int err = boot_image_load(pc->image, vm->pmap, &pc->boot);

	if (!err)
		firmware_interrupts(pc);
	return err;
}

/* ---- set-up ---- */

static int create_consoles(struct pc *pc, const struct vm_config *cfg)
{
	struct console_config file = {.in_fd = -1, .out_fd = cfg->console_fd};
	struct console_config debug = {.in_fd = -1, .out_fd = cfg->debugcon_fd};
	struct loop *loop = pc->vm->loop;
	int err;

	if (cfg->console == CONSOLE_STDIO)
		err = console_create_stdio(&pc->console, loop, cfg->escape);
	else
		err = console_create(&pc->console, loop, &file);
	if (!err && cfg->debugcon_fd >= 0)
		err = console_create(&pc->debugcon, loop, &debug);
	return err;
}

static int create_vcpus(struct pc *pc, const struct vm_config *cfg)
{
	struct vm *vm = pc->vm;

	for (unsigned i = 0; i < cfg->nr_vcpus; i++) {
		struct vcpu *v = vm_add_vcpu(vm);
		int err = v ? x86_cpu_create(v) : -ENOMEM;

		if (err)
			return err;
		v->stats.timed = cfg->timed_exits;
	}
	vm->pmap->single = cfg->nr_vcpus == 1;
	return 0;
}

static int create_interrupts(struct pc *pc, const struct dev_env *env)
{
	struct vm *vm = pc->vm;
	struct pic *pic;
	struct ioapic *ioapic;
	struct pit *pit;
	struct pic_config pic_cfg = {.intr = lapic_set_extint};
	struct ioapic_config io_cfg = {
		.msi = lapic_set_msi, .version = IOAPIC_VERSION, .id = 0, .irq0_to_pin2 = true};
	struct lapic_wires wires = {.inta = pic_ack, .eoi = ioapic_eoi};
	int err = lapic_set_create(&pc->lapics, env);

	if (err)
		return err;
	pic_cfg.arg = io_cfg.arg = pc->lapics;
	err = pic_create(&pic, env, &pic_cfg);
	if (!err)
		err = ioapic_create(&ioapic, env, &io_cfg);
	if (!err)
		err = pit_create(&pit, env);
	if (err)
		return err;
	wires.pic = pc->pic = pic;
	wires.ioapic = ioapic;
	lapic_set_wire(pc->lapics, &wires);
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		const struct lapic_config cfg = {
			.vcpu = vm->vcpu[i],
			.id = i,
			.bsp = i == 0,
			.maxphyaddr = vcpu_x86(vm->vcpu[i])->phys_bits,
			.x2apic = true,
			.tsc_deadline = true,
			.tsc_khz = vm->tsc_khz,
			.tsc_now = tsc_now,
		};
		struct lapic *l;

		err = lapic_create(&l, pc->lapics, &cfg);
		if (err)
			return err;
		if (!i)
			pc->bsp_lapic = l;
	}
	return 0;
}

static u8 on_cf9_read(void *arg)
{
	const struct pc *pc = arg;

	return acpipm_reset_control_read(pc->pm);
}

static void on_cf9_write(void *arg, u8 val)
{
	struct pc *pc = arg;

	acpipm_reset_control(pc->pm, val);
}

static int create_pci(struct pc *pc, const struct vm_config *cfg, const struct dev_env *env)
{
	const struct pci_host_config host_cfg = {
		.ecam_base = PCI_ECAM,
		.mem_base = PCI_MEM_BASE,
		.mem_len = PCI_MEM_LEN,
		.io_base = PCI_IO_BASE,
		.io_len = PCI_IO_LEN,
		.gsi_base = PCI_GSI_BASE,
		.msi = lapic_set_msi,
		.msi_arg = pc->lapics,
		.cf9_read = on_cf9_read,
		.cf9_write = on_cf9_write,
		.cf9_arg = pc,
	};
	struct virtio_env venv = {.env = env};
	int err = pci_host_create(&pc->pci, env, &host_cfg);

	venv.pci = pc->pci;
	if (!err)
		err = devices_create(&venv, cfg, &pc->devices);
	return err ? err : pci_host_assign(pc->pci);
}

static void platform_init(struct boot_platform *p)
{
	*p = boot_platform_pc;
	p->pci = (struct boot_pci){
		.ecam = PCI_ECAM,
		.mem = {{PCI_MEM_BASE, PCI_MEM_LEN}, {PCI_MEM2_BASE, PCI_MEM2_LEN}},
		.gsi_base = PCI_GSI_BASE,
		.nr_gsis = PCI_NR_INTX,
	};
}

static int firmware_file(void *fw, const char *name, const void *data, u32 len)
{
	return fwcfg_add_file(fw, name, data, len);
}

static int create_devices(struct pc *pc, const struct vm_config *cfg, const struct dev_env *env)
{
	const struct boot_platform *plat = &pc->platform;
	struct vm *vm = pc->vm;
	struct serial *com1;
	struct rtc *rtc;
	struct i8042 *kbc;
	struct fwcfg *fw;
	struct port80 *post;
	const struct serial_config serial_cfg = {.back = pc->console};
	const struct rtc_config rtc_cfg = {.nr_vcpus = cfg->nr_vcpus};
	const struct i8042_config kbc_cfg = {.reset = on_keyboard_reset, .arg = vm};
	const struct fwcfg_config fw_cfg = {.nr_vcpus = cfg->nr_vcpus};
	const struct port80_config post_cfg = {0};
	const struct acpipm_config pm_cfg = {.iobase = plat->pm_base,
	                                     .sci = plat->sci_irq,
	                                     .timer32 = plat->pm_timer_32,
	                                     .pci = true,
	                                     .poweroff = on_poweroff,
	                                     .reset = on_acpi_reset,
	                                     .arg = vm};
	const struct pvpanic_config panic_cfg = {.panicked = on_panic, .arg = vm};
	int err = serial_create(&com1, env, &serial_cfg);

	if (!err)
		err = rtc_create(&rtc, env, &rtc_cfg);
	if (!err)
		err = i8042_create(&kbc, env, &kbc_cfg);
	if (!err)
		err = fwcfg_create(&fw, env, &fw_cfg);
	if (!err)
		err = boot_firmware_files(pc->image, vm->pmap, firmware_file, fw);
	if (!err)
		err = port80_create(&post, env, &post_cfg);
	if (!err)
		err = acpipm_create(&pc->pm, env, &pm_cfg);
	if (!err && plat->pvpanic_port)
		err = pvpanic_create(env, &panic_cfg);
	if (!err && pc->debugcon) {
		struct debugcon *con;
		const struct debugcon_config con_cfg = {.back = pc->debugcon};

		err = debugcon_create(&con, env, &con_cfg);
	}
	if (!err && cfg->testdev) {
		struct testdev *td;
		const struct testdev_config td_cfg = {
			.flush_page = on_flush_page, .arg = vm, .debugcon = pc->debugcon};

		err = testdev_create(&td, env, &td_cfg);
	}
	return err;
}

/* Last of all: the user chose its place, among those that are left. 0 or an exit code. */
static int create_debug_exit(const struct vm_config *cfg, const struct dev_env *env, struct vm *vm)
{
	const struct debugexit_config ex_cfg = {
		.iobase = (u16)cfg->debug_exit_port, .iosize = 4, .exit = on_debug_exit, .arg = vm};
	struct debugexit *ex;

	if (cfg->debug_exit_port < 0)
		return 0;
	if (!bus_is_free(env->bus, BUS_PIO, ex_cfg.iobase, ex_cfg.iosize)) {
		log_error("--debug-exit %#x: a device of the machine is at one of the ports from "
		          "there to %#x; for example: --debug-exit 0x501",
		          ex_cfg.iobase, ex_cfg.iobase + ex_cfg.iosize - 1u);
		return VM_EXIT_USAGE;
	}
	return debugexit_create(&ex, env, &ex_cfg) < 0 ? VM_EXIT_HOST : 0;
}

static int create_engine(struct vm *vm)
{
	int err = vm->engine->vm_create ? vm->engine->vm_create(vm) : 0;

	for (unsigned i = 0; i < vm->nr_vcpus && !err; i++)
		err = vm->engine->vcpu_create(vm->vcpu[i]);
	return err;
}

/* Devices on PCI open what the user named: sockets, ports of the host, interfaces. What isn't
 * shortage of the host's is his to mend. */
static int whose_fault(int err)
{
	switch (err) {
	case -ENOMEM:
	case -EMFILE:
	case -ENFILE:
	case -EAGAIN:
		return VM_EXIT_HOST;
	default:
		return VM_EXIT_USAGE;
	}
}

int pc_create(struct vm *vm, const struct vm_config *cfg)
{
	struct pc *pc = calloc(1, sizeof(*pc));
	const struct boot_config boot = {.kernel = cfg->kernel,
	                                 .firmware = cfg->firmware,
	                                 .initrd = cfg->initrd,
	                                 .cmdline = cfg->cmdline,
	                                 .nr_cpus = cfg->nr_vcpus,
	                                 .platform = pc ? &pc->platform : NULL};
	struct dev_env env;
	int code = VM_EXIT_HOST, err;

	if (!pc) {
		log_error("out of memory");
		return VM_EXIT_HOST;
	}
	pc->vm = pc->devices.vm = vm;
	platform_init(&pc->platform);
	vm->machine = pc;
	vm->trace = cfg->trace;
	vm->engine = cfg->engine;
	vm->no_reboot = cfg->no_reboot;
	vm->timed_exits = cfg->timed_exits;
	vm->machine_reset = machine_reset;
	if (vm_init(vm) < 0)
		goto fail;
	/* The user's files first: what is wrong with them is his to mend. */
	if (boot_image_open(&pc->image, &boot) < 0) {
		code = VM_EXIT_USAGE;
		goto fail;
	}
	for (unsigned i = 0; i < cfg->nr_disks; i++) {
		if (disk_open(&pc->devices.disk[i], vm->loop, &cfg->disk[i].image) < 0) {
			code = VM_EXIT_USAGE;
			goto fail;
		}
	}
	if (pmap_create(&vm->pmap, cfg->ram_size) < 0)
		goto fail;
	if (boot_image_load(pc->image, vm->pmap, &pc->boot) < 0) {
		code = VM_EXIT_USAGE;
		goto fail;
	}
	vm->tsc_khz = x86_host_tsc_khz();
	env = (struct dev_env){.bus = vm->bus,
	                       .loop = vm->loop,
	                       .irq = &vm->irq,
	                       .pmap = vm->pmap,
	                       .trace = &vm->trace,
	                       .devices = &vm->devices};
	if (create_vcpus(pc, cfg) < 0 || create_interrupts(pc, &env) < 0 || create_engine(vm) < 0)
		goto fail;
	if (create_consoles(pc, cfg) < 0 || create_devices(pc, cfg, &env) < 0)
		goto fail;
	err = create_pci(pc, cfg, &env);
	if (err < 0) {
		code = whose_fault(err);
		goto fail;
	}
	code = create_debug_exit(cfg, &env, vm);
	if (code)
		goto fail;
	firmware_interrupts(pc);
	vcpu_x86(vm->vcpu[0])->after_reset = apply_boot_state;
	vcpu_x86(vm->vcpu[0])->after_reset_arg = pc;
	apply_boot_state(vcpu_x86(vm->vcpu[0]), pc);
	log_debug("%s: %s kernel, entry %#llx", cfg->name, pc->boot.protocol,
	          (unsigned long long)pc->boot.rip);
	return 0;

fail:
	pc_destroy(vm);
	return code;
}

void pc_destroy(struct vm *vm)
{
	struct pc *pc = vm->machine;

	if (!pc)
		return;
	/* Devices may still write to their consoles while they go. */
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		if (vm->vcpu[i]->engine_state) {
			vm->engine->vcpu_destroy(vm->vcpu[i]);
			vm->vcpu[i]->engine_state = NULL;
		}
	dev_destroy_all(&vm->devices);
	for (unsigned i = 0; i < VM_MAX_DISKS; i++)
		block_destroy(pc->devices.disk[i]);
	for (unsigned i = 0; i < pc->devices.nr_ports; i++)
		chardev_destroy(pc->devices.port[i]);
	chardev_destroy(pc->debugcon);
	chardev_destroy(pc->console);
	boot_image_close(pc->image);
	vm_destroy(vm);
	free(pc);
	vm->machine = NULL;
}

struct chardev *pc_console(const struct vm *vm)
{
	return ((struct pc *)vm->machine)->console;
}

bool pc_power_button(struct vm *vm)
{
	struct pc *pc = vm->machine;

	return acpipm_power_button(pc->pm);
}

bool pc_balloon(struct vm *vm, s64 bytes, u64 *now)
{
	struct virtio_balloon *b = ((struct pc *)vm->machine)->devices.balloon;
	u64 size;

	if (!b)
		return false;
	size = virtio_balloon_target(b);
	if (bytes < 0 && (u64)-bytes > size)
		size = 0;
	else
		size += (u64)bytes;
	virtio_balloon_set(b, size);
	*now = virtio_balloon_target(b);
	return true;
}
