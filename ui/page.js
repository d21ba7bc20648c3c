// Keyboard shortcuts, copying, keeping the picture in view, and two notices: a setting changed too late, and a server that
// does not respond. The page works without this script.
(() => {
  const isVisible = (id) => document.querySelector(`#${id}`)?.offsetParent;
  const isPainting = () => isVisible("stop") || isVisible("batch-stop");
  const press = (id) => {
    const button = document.querySelector(`#${id}`);
    if (!isVisible(id) || button.disabled) return false;
    button.click();
    return true;
  };
  document.addEventListener("keydown", (event) => {
    const usesEnter = event.target.closest("textarea, button, a, [role=button], [role=tab], summary, [role=listbox]");
    if (event.key === "Escape") press("stop") || press("batch-stop");
    if (event.key === "Enter" && !usesEnter && !isPainting()) press("paint") || press("batch-paint");
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
    } catch {
      button.outerHTML = `<code></code>`;  // without https there is no clipboard: show the command, so that it can be selected
      document.querySelector("#summary code").textContent = button.dataset.copy;
    }
  });

  const showNotice = (event) => {
    const column = event.target.closest?.(".choices");
    const go = column?.querySelector(".go");
    if (!go || !isPainting()) return;
    let notice = column.querySelector(".notice");
    if (!notice) {
      notice = document.createElement("p");
      notice.className = "notice";
      notice.setAttribute("role", "status");
      go.before(notice);
    }
    notice.textContent = "Applies to the next picture.";
    notice.hidden = false;
  };
  document.addEventListener("input", showNotice, true);
  document.addEventListener("change", showNotice, true);
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(".go")) return;
    document.querySelectorAll(".notice").forEach((notice) => { notice.hidden = true; });
    // On a phone the picture is above the settings. Scroll to the very top, where the browser does not anchor the scroll
    // position to content that grows.
    const stage = event.target.closest("#paint") && document.querySelector("#stage");
    if (stage && stage.getBoundingClientRect().top < 0) scrollTo({ top: 0 });
  });

  const offline = document.createElement("p");
  offline.className = "offline";
  offline.setAttribute("role", "alert");
  let failures = 0;
  const checkServer = async () => {
    if (document.hidden) return;
    try {
      failures = (await fetch("healthz", { cache: "no-store" })).ok ? 0 : failures + 1;
    } catch {
      failures += 1;
    }
    if (failures < 2) offline.remove();
    else if (!offline.isConnected) {
      offline.textContent = "The server is not responding. Your photo and settings are still here; try again when it is back.";
      (document.querySelector(".gradio-container") ?? document.body).append(offline);
    }
  };
  setInterval(checkServer, 5000);
})();
