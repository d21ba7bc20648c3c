// Keys, copying, the picture in view, and the words on settings that are changed too late and on a server that does not answer.
// The page works without them.
(() => {
  const press = (id) => {
    const button = document.querySelector(`#${id}`);
    if (button && button.offsetParent && !button.disabled) { button.click(); return true; }
    return false;
  };
  const shown = (id) => document.querySelector(`#${id}`)?.offsetParent;
  document.addEventListener("keydown", (event) => {
    const writes = event.target.closest("textarea, button, a, [role=button], [role=tab], summary, [role=listbox]");
    if (event.key === "Escape") press("keep") || press("batch-stop");
    if (event.key === "Enter" && !writes && !shown("keep") && !shown("batch-stop")) press("paint") || press("batch-paint");
  });
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
    } catch {
      button.outerHTML = `<code></code>`;  // no clipboard without https: the command itself, to be selected
      document.querySelector("#used code").textContent = button.dataset.copy;
    }
  });
  const late = (event) => {
    const column = event.target.closest?.(".choices");
    const go = column?.querySelector(".go");
    if (!go || !(shown("keep") || shown("batch-stop"))) return;
    let word = column.querySelector(".later");
    if (!word) {
      word = document.createElement("p");
      word.className = "later";
      word.setAttribute("role", "status");
      go.before(word);
    }
    word.textContent = "Applies to the next picture.";
    word.hidden = false;
  };
  document.addEventListener("input", late, true);
  document.addEventListener("change", late, true);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.(".go")) document.querySelectorAll(".later").forEach((word) => { word.hidden = true; });
  });

  document.addEventListener("click", (event) => {
    const stage = event.target.closest?.("#paint") && document.querySelector("#stage");
    // On a phone the picture is above the settings. To the very top, where the browser does not scroll along with what grows.
    if (stage && stage.getBoundingClientRect().top < 0) scrollTo({ top: 0 });
  });

  const away = document.createElement("p");
  away.className = "away";
  away.setAttribute("role", "alert");
  let missed = 0;
  const look = async () => {
    if (document.hidden) return;
    try {
      missed = (await fetch("healthz", { cache: "no-store" })).ok ? 0 : missed + 1;
    } catch {
      missed += 1;
    }
    if (missed < 2) away.remove();
    else if (!away.isConnected) {
      away.textContent = "The server does not answer. Your photo and settings are still here; try again when it is back.";
      (document.querySelector(".gradio-container") ?? document.body).append(away);
    }
  };
  setInterval(look, 5000);
})();
