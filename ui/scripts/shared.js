// What the other scripts share: the state of the page, clicks on its buttons, notices at its top, and changes to it.
const styler = (() => {
  const isVisible = (id) => Boolean(document.querySelector(`#${id}`)?.getClientRects().length);
  const isPainting = () => isVisible("stop") || isVisible("batch-stop");
  const isBusy = () => Boolean(document.querySelector("#stop, #batch-stop"));
  const findView = () => document.querySelector(".view");
  const press = (id) => {
    const button = document.querySelector(`#${id}`);
    if (!isVisible(id) || button.disabled) return false;
    button.click();
    return true;
  };

  // Notices at the top of the window, each of a kind; a new one replaces the one before it.
  const showAlert = (kind, text) => {
    let notice = document.querySelector(`.alert[data-kind=${kind}]`);
    if (!text) return notice?.remove();
    if (!notice) {
      notice = document.createElement("p");
      notice.className = "alert";
      notice.dataset.kind = kind;
      notice.setAttribute("role", "alert");
      (document.querySelector(".gradio-container") ?? document.body).append(notice);
    }
    if (notice.textContent !== text) notice.textContent = text;
  };

  // Gradio replaces elements whenever it likes. What is called here must leave a page alone that it has already seen.
  const watchers = [];
  const watchPage = (watcher) => watchers.push(watcher);
  new MutationObserver(() => watchers.forEach((watcher) => watcher())).observe(document.documentElement, {
    childList: true, subtree: true, attributeFilter: ["aria-valuenow", "data-number", "data-picture", "data-refusal"],
  });

  /**
   * Call a function whenever the picture on the stage or the tools below it are new, and say whether the picture is.
   * Gradio makes another picture of the element of the one before it, so what a script has changed is still changed.
   */
  const watchView = (watcher) => {
    let [view, number, tools] = [null, "", null];
    watchPage(() => {
      const found = findView();
      const below = document.querySelector(".tools");
      if (found && !below) return;
      const isNew = found !== view || found?.dataset.picture !== number;
      if (!isNew && below === tools) return;
      [view, number, tools] = [found, found?.dataset.picture, below];
      if (view) watcher(view, tools, isNew);
    });
  };
  /** Say in one line below the picture what an action has done, or why it could not. */
  const say = (text) => {
    const line = document.querySelector(".tools .said");
    if (line) line.textContent = text;
  };
  const LOST =
    "The connection was interrupted, so the server has stopped and removed what it had for you: choose your photo again. " +
    "To save a picture that is still shown, right-click it.";

  return { LOST, findView, isBusy, isPainting, isVisible, press, say, showAlert, watchPage, watchView };
})();
