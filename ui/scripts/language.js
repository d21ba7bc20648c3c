// The page is in English, whatever the language of the browser, and takes numbers with a decimal comma.
(() => {
  // Gradio would add words in the language of the browser.
  Object.defineProperty(navigator, "language", { get: () => "en" });
  Object.defineProperty(navigator, "languages", { get: () => ["en"] });

  // Gradio has no word for the button that adds files to a list.
  styler.watchPage(() => {
    for (const button of document.querySelectorAll('button[title="common.upload"]')) button.title = button.ariaLabel = "Add files";
  });

  document.addEventListener("paste", (event) => {
    const number = event.clipboardData?.getData("text").trim().match(/^(-?\d+),(\d+)$/);
    if (!number || !event.target.matches?.("input[type=number]")) return;
    event.preventDefault(); // with a comma, the browser would drop it
    event.target.value = `${number[1]}.${number[2]}`;
    event.target.dispatchEvent(new Event("input", { bubbles: true }));
  });
})();
