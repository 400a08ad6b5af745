// SPDX-License-Identifier: MIT
/* The engines in this build, best first: each engine's meson.build adds its name to the list, so
 * nothing here or elsewhere asks the preprocessor which ones there are. */
#include "machine/config.h"
#include "vcpu/engine.h"

#define ENGINE(name) extern const struct engine_ops name##_engine;
#include "machine/engine-list.h"
#undef ENGINE

#define ENGINE(name) &name##_engine,
const struct engine_ops *const engines[] = {
#include "machine/engine-list.h"
	NULL,
};
