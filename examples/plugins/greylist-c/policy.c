// Greylisting in C: who writes to somebody for the first time is asked to come again. Grant: state.
//
//     [plugin.config]
//     delay_s = 300            # how long a stranger has to wait
//     keep_s  = 2592000        # how long it is remembered
//     allow   = ["192.0.2.7", "friends.example"]   # client addresses and sender domains that need not wait

#include "cJSON.h"
#include "gatepost_sdk.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static uint32_t delay_s = 300;
static uint32_t keep_s = 30 * 86400;
static const cJSON *allow;

static bool whole_seconds(const cJSON *value, uint32_t *seconds) {
    double number = value->valuedouble;
    if (!cJSON_IsNumber(value) || number < 1 || number > UINT32_MAX || number != (uint32_t)number) {
        return false;
    }
    *seconds = (uint32_t)number;
    return true;
}

static bool texts(const cJSON *value) {
    const cJSON *entry;
    cJSON_ArrayForEach(entry, value) {
        if (!cJSON_IsString(entry)) {
            return false;
        }
    }
    return cJSON_IsArray(value);
}

bool exports_lifecycle_configure(gatepost_string_t *config, gatepost_string_t *err) {
    const cJSON *given = cJSON_ParseWithLength((const char *)config->ptr, config->len);
    const cJSON *value;
    cJSON_ArrayForEach(value, given) {
        const char *key = value->string;
        if (strcmp(key, "allow") == 0) {
            if (!texts(value)) {
                return gatepost_refuse(err, "allow: must be a list of texts, as in [\"192.0.2.7\", \"friends.example\"]");
            }
            allow = value;
        } else if (strcmp(key, "delay_s") == 0 || strcmp(key, "keep_s") == 0) {
            if (!whole_seconds(value, key[0] == 'd' ? &delay_s : &keep_s)) {
                return gatepost_refuse(err, "%s: must be a whole number of seconds from 1 to 4294967295", key);
            }
        } else {
            return gatepost_refuse(err, "%s: there is no such key; there are delay_s, keep_s and allow", key);
        }
    }
    return true;
}

static bool allowed(gatepost_string_t client, gatepost_string_t domain) {
    const cJSON *entry;
    cJSON_ArrayForEach(entry, allow) {
        if (gatepost_equal(client, entry->valuestring) || gatepost_equal_nocase(domain, entry->valuestring)) {
            return true;
        }
    }
    return false;
}

static gatepost_string_t domain_of(gatepost_string_t address) {
    size_t at = address.len;
    while (at > 0 && address.ptr[at - 1] != '@') {
        at--;
    }
    return (gatepost_string_t){.ptr = address.ptr + at, .len = address.len - at};
}

// When it was first seen, which may be now. False if the store does not say.
static bool first_seen(gatepost_string_t key, uint64_t now, uint64_t *first) {
    gatepost_option_list_u8_t known;
    state_state_error_t error;
    if (!state_get(&key, &known, &error)) {
        return false;
    }
    *first = known.is_some ? strtoull(gatepost_c_bytes(known.val), NULL, 10) : now;
    gatepost_string_t text = gatepost_text("%" PRIu64, now);
    gatepost_list_u8_t value = {.ptr = text.ptr, .len = text.len};
    return known.is_some || state_set(&key, &value, &keep_s, &error);
}

void exports_on_rcpt_on_rcpt(types_borrow_session_t session, types_borrow_mailbox_t recipient,
                             types_relay_view_t *relay, types_answer_t *ret) {
    gatepost_begin();
    *ret = gatepost_pass();
    types_identity_t identity;
    // What is not ours is the relay gate's business, and who logged in is no stranger.
    if (!relay->ours || types_method_session_identity(session, &identity)) {
        return;
    }
    types_peer_t peer;
    types_method_session_peer(session, &peer);
    gatepost_string_t sender = {0}, address;
    types_method_session_sender(session, &sender);
    if (allowed(peer.address, domain_of(sender))) {
        return;
    }
    types_method_mailbox_address(recipient, &address);
    gatepost_string_t key = gatepost_text("%s %s %s", gatepost_c(peer.address), gatepost_c(sender), gatepost_c(address));
    uint64_t now = clock_now(), first;
    // Without its memory greylisting would refuse everybody for ever.
    if (!first_seen(key, now, &first)) {
        return;
    }
    uint64_t over = first + delay_s * UINT64_C(1000);
    if (over > now) {
        uint64_t left = (over - now + 999) / 1000;
        *ret = gatepost_defer(450, "4.7.1", "Greylisted: try again in %" PRIu64 " seconds", left);
        gatepost_because(ret, "greylisted", gatepost_c(key), "Wait, or put the client or the sender's domain into allow");
    }
}
