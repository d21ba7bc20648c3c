// Notices: a setting changed too late, and a server that does not respond or has lost the visitor's files.
(() => {
  const showNotice = (event) => {
    const column = event.target.closest?.(".choices");
    const go = column?.querySelector(".go");
    if (!go || !styler.isPainting()) return;
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

  document.addEventListener("pointerdown", () => styler.showAlert("refusal", ""));

  const OFFLINE = "The server is not responding. Your photo and settings are still here; try again when it is back.";
  const RESTARTED = "The server was restarted and has lost your photo and pictures; reload the page to go on.";
  let failures = 0;
  const checkServer = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch("gradio_api/app_id", { cache: "no-store" });
      failures = answer.ok ? 0 : failures + 1;
      const isOurs = !answer.ok || (await answer.json()).app_id === window.gradio_config?.app_id;
      styler.showAlert("restart", isOurs ? "" : RESTARTED);
      const shown = document.querySelector(".compare .after");
      if (answer.ok && isOurs && shown) {
        const file = await fetch(shown.src, { method: "HEAD", cache: "no-store" });
        styler.showAlert("lost", file.status === 404 || file.status === 403 ? styler.LOST : "");
      }
    } catch {
      failures += 1;
    }
    styler.showAlert("offline", failures < 2 ? "" : OFFLINE);
  };
  addEventListener("online", checkServer);
  document.addEventListener("visibilitychange", checkServer); // after the computer slept, for instance
  setInterval(checkServer, 5000);
})();
