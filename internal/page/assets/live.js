"use strict";
// What changes comes from the server as the view's own HTML; here it is only
// put in the place of what was there, so that focus, what is typed and what is
// scrolled stay.
(() => {
  const main = document.querySelector("main[data-live]");
  const state = document.getElementById("live");
  if (!main || !window.EventSource) return;
  const say = (text, kind) => { state.textContent = text; state.dataset.state = kind; };

  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName;
  const morph = (from, to) => {
    const was = [...from.childNodes], is = [...to.childNodes];
    is.forEach((next, i) => {
      const old = was[i];
      if (!old) { from.appendChild(next); return; }
      if (!alike(old, next)) { old.replaceWith(next); return; }
      if (next.nodeType !== Node.ELEMENT_NODE) {
        if (old.data !== next.data) old.data = next.data;
        return;
      }
      for (const a of [...old.attributes]) if (!next.hasAttribute(a.name) && a.name !== "open") old.removeAttribute(a.name);
      for (const a of next.attributes) if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value);
      if (old !== document.activeElement || !("value" in old)) morph(old, next);
    });
    was.slice(is.length).forEach((old) => old.remove());
  };

  let source;
  const open = () => {
    source = new EventSource(location.href);
    source.onopen = () => say("live", "on");
    source.onerror = () => say("no connection", "off");
    source.onmessage = (e) => morph(main, new DOMParser().parseFromString("<main>" + e.data + "</main>", "text/html").querySelector("main"));
    source.addEventListener("still", () => { source.close(); say("", ""); });
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { source.close(); } else if (state.dataset.state) { open(); }
  });
  window.addEventListener("pagehide", () => source.close());
  open();
})();
