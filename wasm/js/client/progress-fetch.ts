/**
 * What `fetch` lacks in browsers: telling how much of a body is on its way.
 */

/**
 * A `fetch` for requests whose body is a `Blob` or bytes and whose answer is short; `undefined` where
 * the host has nothing to make it of.
 */
export function fetchWithProgress(onSent: (bytes: number) => void): typeof fetch | undefined {
  if (typeof XMLHttpRequest === "undefined") return undefined;
  return (input, init = {}) =>
    new Promise((resolve, reject) => {
      const { signal } = init;
      const request = new XMLHttpRequest();
      request.open(init.method ?? "GET", String(input));
      new Headers(init.headers).forEach((value, name) => request.setRequestHeader(name, value));
      request.upload.onprogress = ({ loaded }) => onSent(loaded);
      const abort = () => request.abort();
      request.onload = () => resolve(answer(request));
      request.onerror = () => reject(new TypeError("the request failed"));
      request.onabort = () => reject(signal?.reason ?? new TypeError("the request was ended"));
      request.onloadend = () => signal?.removeEventListener("abort", abort);
      signal?.addEventListener("abort", abort, { once: true });
      request.send(init.body as XMLHttpRequestBodyInit);
      if (signal?.aborted) abort();
    });
}

function answer(request: XMLHttpRequest): Response {
  const { status, statusText, responseText } = request;
  const headers = { "content-type": request.getResponseHeader("content-type") ?? "" };
  // These have no body, and a `Response` of them takes none.
  const body = status === 204 || status === 205 || status === 304 ? null : responseText;
  return new Response(body, { status, statusText, headers });
}
