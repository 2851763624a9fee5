// A question to the server. Its answer, or {error} in words: nothing is thrown, so that no button stays disabled. `silent`
// says that there was no answer at all; one that comes later is not taken.
const LONGEST = 60000; // ms; the exact solver takes 10 s, and several times that to say why nothing fits

export async function answerOf(server, name, question) {
  let waiting;
  const silence = new Promise((_, reject) => { waiting = setTimeout(() => reject(new Error(`nothing for ${LONGEST / 1000} s`)), LONGEST); });
  try {
    return JSON.parse(await Promise.race([server[name](question), silence]));
  } catch (e) {
    return { error: `The server did not answer (${e.message || e}); nothing here is lost.`, silent: true };
  } finally {
    clearTimeout(waiting);
  }
}
