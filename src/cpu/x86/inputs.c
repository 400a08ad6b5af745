// SPDX-License-Identifier: MIT
/* The way from code that may run with the guest's vector state in the host's registers to the
 * ordinary code behind c->inputs. */
#include "cpu/x86/inputs.h"

bool x86_input_take_slow(struct x86_cpu *c, struct x86_input *in)
{
	const struct x86_inputs *i = c->inputs;

	if (!i->shadow)
		return false;
	x86_fpu_put(c);
	i->ops->take(i->arg, in);
	return true;
}

void x86_input_made_slow(struct x86_cpu *c, const struct x86_input *in)
{
	const struct x86_inputs *i = c->inputs;

	if (i->shadow)
		return;
	x86_fpu_put(c);
	i->ops->made(i->arg, in);
}

u64 x86_input_value_slow(struct x86_cpu *c, enum x86_input_kind kind, u64 val)
{
	struct x86_input in = {.kind = kind, .val = val};

	if (!x86_input_take_slow(c, &in))
		x86_input_made_slow(c, &in);
	return in.val;
}

void x86_inputs_boundary(struct x86_cpu *c, u64 progress)
{
	const struct x86_inputs *i = c->inputs;

	i->ops->boundary(i->arg, progress);
}

void x86_inputs_event(struct x86_cpu *c, const struct x86_event *ev)
{
	const struct x86_inputs *i = c->inputs;

	if (i->shadow)
		return;
	x86_fpu_put(c);
	i->ops->event(i->arg, ev);
}
