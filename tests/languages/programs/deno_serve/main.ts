// Deno.serve, in TypeScript, with a timer and WebCrypto in each call.
let calls = 0;

Deno.serve({ hostname: "0.0.0.0", port: Number(Deno.env.get("PORT")) }, async (request: Request): Promise<Response> => {
  calls += 1;
  const asked: { text: string; number: number } = await request.json();
  let sum = 0;
  for (let n = 0; n <= asked.number; n++) sum += n * n;
  await new Promise((done) => setTimeout(done, 1));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode("mayfly")));
  const hex = (bytes: Uint8Array): string => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return Response.json({
    text: asked.text,
    count: calls,
    sum,
    random: hex(crypto.getRandomValues(new Uint8Array(16))),
    digest: hex(digest.slice(0, 4)),
    version: Deno.version.deno,
  });
});
