// Keys and copying. The page works without them.
(() => {
  const press = (id) => {
    const button = document.querySelector(`#${id}`);
    if (button && button.offsetParent && !button.disabled) { button.click(); return true; }
    return false;
  };
  document.addEventListener("keydown", (event) => {
    const writes = event.target.closest("textarea, button, a, [role=button], [role=tab], summary, [role=listbox]");
    if (event.key === "Escape") press("keep");
    if (event.key === "Enter" && !writes && !document.querySelector("#keep")?.offsetParent) press("paint");
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
})();
