// What makes a policy in C short: memory that nobody has to free, texts, and answers.
//
// gatepost.h, which this includes, is made from the interface at each build. Its names are those of the interface: the function `now` of `clock` is
// clock_now, the type `answer` of `types` is types_answer_t, its methods are types_method_session_peer, and what a policy exports begins with
// exports_. What the interface calls an option or a result is a function that returns whether there is one, or whether it went well.
#ifndef GATEPOST_SDK_H
#define GATEPOST_SDK_H

#include "gatepost.h"

// ---- memory ------------------------------------------------------------------------------------------------------------------------------------
//
// Free nothing. malloc and all that the host hands over take from the memory of the call, which is there as a whole until the call's answer was
// read; free() does nothing. What exports_lifecycle_configure allocates stays: nothing else does, so keep no pointers to what a hook allocated.

// Begins a call: the first line of each hook. Without it the memory of earlier calls is not used again.
void gatepost_begin(void);

// ---- texts -------------------------------------------------------------------------------------------------------------------------------------
//
// A gatepost_string_t is UTF-8, and has no NUL at its end.

// As printf writes it.
__attribute__((format(printf, 1, 2))) gatepost_string_t gatepost_text(const char *format, ...);

// With a NUL at its end, for printf's %s, strcmp and the like.
const char *gatepost_c(gatepost_string_t text);

// The same for bytes: what `state` and `notes` keep.
const char *gatepost_c_bytes(gatepost_list_u8_t bytes);

// Whether both are the same. `equal_nocase` takes ASCII letters of either case for the same.
bool gatepost_equal(gatepost_string_t text, const char *other);
bool gatepost_equal_nocase(gatepost_string_t text, const char *other);

// ---- answers -----------------------------------------------------------------------------------------------------------------------------------
//
//     *ret = gatepost_reject(550, "5.1.1", "%s is not known here", gatepost_c(address));

// No opinion: the next policy is asked.
types_answer_t gatepost_pass(void);
// Take it, and ask no later policy. It grants nothing.
types_answer_t gatepost_accept(void);
// Say 250, and drop the recipient or the message.
types_answer_t gatepost_discard(void);
// Refuse for good (5xx), for now (4xx), or with the connection. The code 0 and an empty `enhanced` (5.7.1) are the host's usual ones.
__attribute__((format(printf, 3, 4))) types_answer_t gatepost_reject(uint16_t code, const char *enhanced, const char *format, ...);
__attribute__((format(printf, 3, 4))) types_answer_t gatepost_defer(uint16_t code, const char *enhanced, const char *format, ...);
__attribute__((format(printf, 3, 4))) types_answer_t gatepost_disconnect(uint16_t code, const char *enhanced, const char *format, ...);

// Says why, for the log: a code in kebab case, the values that mattered, and what can be done about it.
void gatepost_because(types_answer_t *answer, const char *reason, const char *detail, const char *remedy);

// Adds an action: (types_action_t){ .tag = TYPES_ACTION_DELAY, .val.delay = 1000 }
void gatepost_act(types_answer_t *answer, types_action_t action);

// ---- configuration -----------------------------------------------------------------------------------------------------------------------------
//
// exports_lifecycle_configure gets [plugin.config] as JSON; cJSON.h reads it: cJSON_ParseWithLength((const char *)config->ptr, config->len).

// What exports_lifecycle_configure returns for a setting that cannot be: sets the error, which names the key, and is false.
__attribute__((format(printf, 2, 3))) bool gatepost_refuse(gatepost_string_t *err, const char *format, ...);

#endif
