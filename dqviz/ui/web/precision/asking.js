// A question to the server. Its answer, or {error} in words: nothing is thrown, so that no button stays disabled.
export async function answerOf(server, name, question) {
  try {
    return JSON.parse(await server[name](question));
  } catch (e) {
    return { error: `The server did not answer: ${e.message || e}` };
  }
}
