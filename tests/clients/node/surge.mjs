// Thousands of invocations at once, each with a connection of its own: every one is answered, or refused in a way that its driver understands.

import { concurrency, equal, report, url } from "./report.mjs";

// The same database for a tenant that does not let many wait.
const hastyUrl = url.replace(/[^/]+$/, "hasty");
const TOO_MANY = "53300";

/** Runs the checks with a driver's `invocation(url, number, seconds)`, which resolves to the number. */
export async function surge(invocation) {
  const outcome = async (at, number, seconds) => {
    try {
      equal(await invocation(at, number, seconds), number);
      return "answered";
    } catch (error) {
      return /^[0-9A-Z]{5}$/.test(error.code) ? error.code : `lost: ${error.code ?? ""} ${error.message}`;
    }
  };
  const allAtOnce = async (at, seconds) => {
    const outcomes = {};
    for (const each of await Promise.all(Array.from({ length: concurrency }, (_, number) => outcome(at, number, seconds)))) {
      outcomes[each] = (outcomes[each] ?? 0) + 1;
    }
    return outcomes;
  };
  const who_can_wait_is_answered = async () => equal(await allAtOnce(url, 0.002), { answered: concurrency });
  const who_cannot_is_refused = async () => {
    const outcomes = await allAtOnce(hastyUrl, 0.05);
    console.log("    ", outcomes);
    equal(Object.keys(outcomes).sort(), [TOO_MANY, "answered"]);
  };
  const and_a_second_later_it_is_over = async () => {
    const begun = performance.now();
    equal(await outcome(hastyUrl, 1, 0), "answered");
    const took = performance.now() - begun;
    if (took > 1000) throw new Error(`${took} ms`);
  };
  await report(who_can_wait_is_answered, who_cannot_is_refused, and_a_second_later_it_is_over);
}
