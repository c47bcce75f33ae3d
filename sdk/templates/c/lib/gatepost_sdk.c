#include "gatepost_sdk.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- memory ------------------------------------------------------------------------------------------------------------------------------------
//
// These take the place of the C library's functions. Blocks are cut off one after the other and never given back singly.
//
// The host writes a call's arguments before its hook runs, and reads the answer after it has returned. So there are two arenas in turns, and a hook
// begins by changing to the other one: what lies there is of the call before the last, and of arguments that were done with when the last returned.

#define WASM_PAGE 65536
#define ALIGNMENT 16

// Of whole pages; what it hands out begins ALIGNMENT-aligned behind it.
struct chunk {
    struct chunk *next;
    size_t size;
    size_t used;
};

// `current` is the one that is cut from; those before it are full, those behind it are free.
struct arena {
    struct chunk *first;
    struct chunk *current;
};

// What was allocated before the first hook stays: that is the configuration.
static struct arena for_good, in_turn[2];
static struct arena *arena = &for_good;

static size_t rounded_up(size_t size, size_t to) {
    return (size + to - 1) / to * to;
}

static struct chunk *more_memory(size_t size) {
    size_t pages = rounded_up(size, WASM_PAGE) / WASM_PAGE;
    size_t old = __builtin_wasm_memory_grow(0, pages);
    if (old == (size_t)-1) {
        return NULL;
    }
    struct chunk *chunk = (struct chunk *)(old * WASM_PAGE);
    *chunk = (struct chunk){.next = NULL, .size = pages * WASM_PAGE, .used = rounded_up(sizeof *chunk, ALIGNMENT)};
    return chunk;
}

// A block of `size` bytes, with its size in front of it for realloc.
static void *cut(size_t size) {
    size_t head = rounded_up(sizeof size, ALIGNMENT);
    if (size > PTRDIFF_MAX - WASM_PAGE) {
        return NULL;
    }
    size_t needed = head + rounded_up(size, ALIGNMENT);
    struct chunk *chunk = arena->current, *last = NULL;
    // Those behind the current one are empty, and one that is too small is left out.
    while (chunk && chunk->size - chunk->used < needed) {
        last = chunk;
        chunk = chunk->next;
    }
    if (!chunk) {
        chunk = more_memory(rounded_up(sizeof *chunk, ALIGNMENT) + needed);
        if (!chunk) {
            return NULL;
        }
        *(last ? &last->next : &arena->first) = chunk;
    }
    arena->current = chunk;
    char *block = (char *)chunk + chunk->used + head;
    *(size_t *)(block - head) = size;
    chunk->used += needed;
    return block;
}

void gatepost_begin(void) {
    arena = arena == &in_turn[0] ? &in_turn[1] : &in_turn[0];
    for (struct chunk *chunk = arena->first; chunk; chunk = chunk->next) {
        chunk->used = rounded_up(sizeof *chunk, ALIGNMENT);
    }
    arena->current = arena->first;
}

void *malloc(size_t size) {
    return cut(size);
}

void free(void *block) {
    (void)block;
}

void *calloc(size_t count, size_t size) {
    size_t bytes;
    void *block = __builtin_mul_overflow(count, size, &bytes) ? NULL : cut(bytes);
    return block ? memset(block, 0, bytes) : NULL;
}

void *realloc(void *block, size_t size) {
    size_t old = block ? *(size_t *)((char *)block - rounded_up(sizeof size, ALIGNMENT)) : 0;
    void *other = cut(size);
    if (other && old > 0) {
        memcpy(other, block, old < size ? old : size);
    }
    return other;
}

// ---- texts -------------------------------------------------------------------------------------------------------------------------------------

static void *must(void *block) {
    // The call ends here, as a failure of the policy.
    return block ? block : (abort(), NULL);
}

static gatepost_string_t copied(const char *text) {
    size_t length = strlen(text);
    return (gatepost_string_t){.ptr = memcpy(must(malloc(length + 1)), text, length), .len = length};
}

static gatepost_string_t formatted(const char *format, va_list values) {
    va_list again;
    va_copy(again, values);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (length < 0) {
        abort();
    }
    char *text = must(malloc((size_t)length + 1));
    vsnprintf(text, (size_t)length + 1, format, values);
    return (gatepost_string_t){.ptr = (uint8_t *)text, .len = (size_t)length};
}

static const char *terminated(const uint8_t *bytes, size_t length) {
    char *text = must(malloc(length + 1));
    if (length > 0) {
        memcpy(text, bytes, length);
    }
    text[length] = '\0';
    return text;
}

gatepost_string_t gatepost_text(const char *format, ...) {
    va_list values;
    va_start(values, format);
    gatepost_string_t text = formatted(format, values);
    va_end(values);
    return text;
}

const char *gatepost_c(gatepost_string_t text) {
    return terminated(text.ptr, text.len);
}

const char *gatepost_c_bytes(gatepost_list_u8_t bytes) {
    return terminated(bytes.ptr, bytes.len);
}

bool gatepost_equal(gatepost_string_t text, const char *other) {
    return strlen(other) == text.len && (text.len == 0 || memcmp(text.ptr, other, text.len) == 0);
}

static unsigned char lower(unsigned char letter) {
    return letter >= 'A' && letter <= 'Z' ? letter + ('a' - 'A') : letter;
}

bool gatepost_equal_nocase(gatepost_string_t text, const char *other) {
    if (strlen(other) != text.len) {
        return false;
    }
    for (size_t at = 0; at < text.len; at++) {
        if (lower(text.ptr[at]) != lower((unsigned char)other[at])) {
            return false;
        }
    }
    return true;
}

// ---- answers -----------------------------------------------------------------------------------------------------------------------------------

static types_answer_t decided(uint8_t decision) {
    return (types_answer_t){.decision = {.tag = decision}};
}

types_answer_t gatepost_pass(void) {
    return decided(TYPES_DECISION_PASS);
}

types_answer_t gatepost_accept(void) {
    return decided(TYPES_DECISION_ACCEPT);
}

types_answer_t gatepost_discard(void) {
    return decided(TYPES_DECISION_DISCARD);
}

// A reply whose text is formatted of what follows `format`.
#define REPLY(into, code_, enhanced_, format)                                                       \
    do {                                                                                            \
        va_list values;                                                                             \
        va_start(values, format);                                                                   \
        (into) = (types_reply_t){                                                                   \
            .code = (code_), .enhanced = copied(enhanced_), .text = formatted((format), values)};   \
        va_end(values);                                                                             \
    } while (0)

types_answer_t gatepost_reject(uint16_t code, const char *enhanced, const char *format, ...) {
    types_answer_t answer = decided(TYPES_DECISION_REJECT);
    REPLY(answer.decision.val.reject, code, enhanced, format);
    return answer;
}

types_answer_t gatepost_defer(uint16_t code, const char *enhanced, const char *format, ...) {
    types_answer_t answer = decided(TYPES_DECISION_DEFER);
    REPLY(answer.decision.val.defer, code, enhanced, format);
    return answer;
}

types_answer_t gatepost_disconnect(uint16_t code, const char *enhanced, const char *format, ...) {
    types_answer_t answer = decided(TYPES_DECISION_DISCONNECT);
    REPLY(answer.decision.val.disconnect, code, enhanced, format);
    return answer;
}

void gatepost_because(types_answer_t *answer, const char *reason, const char *detail, const char *remedy) {
    answer->why = (types_option_explanation_t){
        .is_some = true,
        .val = {.reason = copied(reason), .detail = copied(detail), .remedy = copied(remedy)},
    };
}

void gatepost_act(types_answer_t *answer, types_action_t action) {
    types_list_action_t *actions = &answer->actions;
    actions->ptr = must(realloc(actions->ptr, (actions->len + 1) * sizeof action));
    actions->ptr[actions->len++] = action;
}

// ---- configuration -----------------------------------------------------------------------------------------------------------------------------

bool gatepost_refuse(gatepost_string_t *err, const char *format, ...) {
    va_list values;
    va_start(values, format);
    *err = formatted(format, values);
    va_end(values);
    return false;
}
