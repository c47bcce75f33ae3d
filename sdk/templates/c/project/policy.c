// A policy for Gatepost. What each hook sees and may answer stands in build/bindings/gatepost.h, and what helps with it in build/bindings/gatepost_sdk.h,
// which the first build leaves there.
// It takes no [plugin.config]. One that does exports `lifecycle` too: see wit/world.wit.

#include "gatepost_sdk.h"

{{hooks}}
