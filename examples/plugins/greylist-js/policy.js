// Greylisting in JavaScript: who writes to somebody for the first time is asked to come again. Grant: state.
//
//     [plugin.config]
//     delay_s = 300            # how long a stranger has to wait
//     keep_s  = 2592000        # how long it is remembered
//     allow   = ["192.0.2.7", "friends.example"]   # client addresses and sender domains that need not wait

import { now } from "gatepost:policy/clock@0.1.0";
import * as state from "gatepost:policy/state@0.1.0";

const config = { delay_s: 300, keep_s: 30 * 86400, allow: [] };

const isSeconds = (value) => Number.isInteger(value) && value >= 1 && value <= 0xffffffff;
const isTexts = (value) => Array.isArray(value) && value.every((entry) => typeof entry === "string");

export const lifecycle = {
  // What is thrown is the error's text.
  configure(text) {
    for (const [key, value] of Object.entries(JSON.parse(text))) {
      if (!Object.hasOwn(config, key)) {
        throw `${key}: there is no such key; there are delay_s, keep_s and allow`;
      }
      if (key === "allow" && !isTexts(value)) {
        throw 'allow: must be a list of texts, as in ["192.0.2.7", "friends.example"]';
      }
      if (key !== "allow" && !isSeconds(value)) {
        throw `${key}: must be a whole number of seconds from 1 to 4294967295`;
      }
      config[key] = value;
    }
  },
};

export const onRcpt = {
  onRcpt(session, recipient, relay) {
    // What is not ours is the relay gate's business, and who logged in is no stranger.
    if (!relay.ours || session.identity()) return pass();
    const client = session.peer().address;
    const sender = session.sender() ?? "";
    const domain = sender.slice(sender.lastIndexOf("@") + 1).toLowerCase();
    if (config.allow.includes(client) || config.allow.includes(domain)) return pass();
    const key = `${client} ${sender} ${recipient.address()}`;
    const time = Number(now());
    let first = time;
    try {
      const known = state.get(key);
      if (known) first = Number(new TextDecoder().decode(known));
      else state.set(key, new TextEncoder().encode(String(time)), config.keep_s);
    } catch {
      // Without its memory greylisting would refuse everybody for ever.
      return pass();
    }
    const left = Math.ceil((first + config.delay_s * 1000 - time) / 1000);
    return left <= 0 ? pass() : wait(left, key);
  },
};

const pass = () => ({ decision: { tag: "pass" }, actions: [] });

const wait = (left, key) => ({
  decision: {
    tag: "defer",
    val: { code: 450, enhanced: "4.7.1", text: `Greylisted: try again in ${left} seconds` },
  },
  actions: [],
  why: {
    reason: "greylisted",
    detail: key,
    remedy: "Wait, or put the client or the sender's domain into allow",
  },
});
