"use strict";
// No browser starts a worker from a file. For a site that is opened from the disk, a hidden frame runs the script of
// the search instead, and messages are passed on.
if (location.protocol === "file:") {
  const load = (scope, url) => new Promise((done, failed) => {
    const script = scope.document.createElement("script");
    script.src = url;
    script.onload = done;
    script.onerror = () => failed(new Error(`${url} cannot be loaded`));
    scope.document.body.append(script);
  });

  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "search";
      this.started = new Promise((done) => frame.addEventListener("load", done, { once: true }))
        .then(() => this.start(frame.contentWindow, url));
      frame.srcdoc = "<!doctype html>";
      document.body.append(frame);
    }

    async start(scope, url) {
      scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      scope.importScripts = async (...urls) => { for (const it of urls) await load(scope, it); };
      await load(scope, url);
      return scope;
    }

    postMessage(data) {
      this.started.then((scope) => scope.dispatchEvent(new scope.MessageEvent("message", { data })));
    }
  };
}
