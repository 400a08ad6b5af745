// SPDX-License-Identifier: MIT
/* What bt does about arithmetic flags is a bet on how code is written (doc/bt.md, What is not
 * exact). These tell whether it was lost: machines on which it bets less, or not at all. */
#include "attack.h"

#ifdef HAVE_BT
#include "engine/bt/runtime.h"

bool world_can_keep_flags(const struct world *w)
{
	return w->vm.engine == &bt_engine;
}

void world_keep_flags(struct world *w, bool everywhere)
{
	struct bt_vm *bt = w->vm.engine_vm;

	bt_set_strict(bt, false);
	bt_set_strict(bt, true);
	bt->exact_flags = everywhere;
}

u64 world_modified(const struct world *w)
{
	return world_can_keep_flags(w) ? bt_priv_of(w->vm.engine_vm)->invalidated : 0;
}
#else
bool world_can_keep_flags(const struct world *w)
{
	return false;
}

void world_keep_flags(struct world *w, bool everywhere)
{
}

u64 world_modified(const struct world *w)
{
	return 0;
}
#endif
