// What one notices from another tab: the progress in the title, and if wanted a notification at the end of long work.
(() => {
  const LONG_MS = 20_000;
  const WANTED = "styler-tell";
  const NAME = "styler";
  const REFUSED =
    "The browser does not let this page send notifications; allow them in the browser's settings for this page.";
  const isLooking = () => !document.hidden && document.hasFocus();
  const isWanted = () => localStorage.getItem(WANTED) === "yes" && window.Notification?.permission === "granted";

  const notify = (isBatch) => {
    const name = styler.findView()?.dataset.name;
    try {
      const body = isBatch ? "The batch is done." : `${name} is painted.`;
      const notice = new Notification("Done · styler", { body });
      notice.onclick = () => { window.focus(); notice.close(); };
    } catch {
      // Some phones let only installed pages notify; the title still tells.
    }
  };
  const setTitle = (text) => { if (document.title !== text) document.title = text; };

  // What is being done, or was done last without an outcome on the page yet: Gradio changes one part after another.
  let work = null;
  const findBar = () => document.querySelector(document.querySelector("#stop") ? "#status .bar" : "#batch-status .bar");
  const readNumber = () => Number(styler.findView()?.dataset.picture ?? 0);
  let newest = 0;
  const watchWork = () => {
    if (styler.isBusy()) {
      if (!work || work.hasEnded) {
        work = { since: performance.now(), isBatch: !document.querySelector("#stop"), before: newest, hasEnded: false };
      }
      const percent = findBar()?.getAttribute("aria-valuenow");
      setTitle(percent ? `${percent} % · ${NAME}` : `… · ${NAME}`);
      return;
    }
    newest = Math.max(newest, readNumber());
    if (!work) return;
    const { since, isBatch, before } = work;
    if (!work.hasEnded) setTitle(NAME);
    work.hasEnded = true;
    const hasFailed = document.querySelector(isBatch ? "#batch-status .failed" : "#status .failed");
    const isDone = isBatch ? document.querySelector("#batch-zip") : newest > before;
    if (!hasFailed && !isDone) return;
    work = null;
    if (!isLooking()) setTitle(`${hasFailed ? "Failed" : "Done"} · ${NAME}`);
    if (isDone && document.hidden && isWanted() && performance.now() - since > LONG_MS) notify(isBatch);
  };
  const look = () => { if (isLooking() && !styler.isBusy()) setTitle(NAME); };
  document.addEventListener("visibilitychange", look);
  addEventListener("focus", look);

  // The question is asked when the box is checked, and never by the page itself.
  const tell = () => document.querySelector("#tell");
  styler.watchPage(() => {
    watchWork();
    const box = tell();
    if (!box || box.dataset.isSet) return;
    box.dataset.isSet = "yes";
    box.checked = isWanted();
    box.closest("label").hidden = !window.Notification || !window.isSecureContext;
  });
  document.addEventListener("change", async (event) => {
    const box = event.target;
    if (box.id !== "tell") return;
    localStorage.setItem(WANTED, box.checked ? "yes" : "no");
    if (!box.checked || (await Notification.requestPermission()) === "granted") return;
    localStorage.setItem(WANTED, "no");
    box.checked = false;
    styler.showAlert("refusal", REFUSED);
  });
})();
