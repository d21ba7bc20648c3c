// The board on which a visitor draws a mask on the photo: brush and eraser, by mouse, pen or finger.
(() => {
  const INK = "#c418b0"; // the color of a mask on the stage
  let kept = { photo: "", strokes: [] }; // what was used last, to go on from it
  let shown = null;

  const draw = (canvas, strokes, ink) => {
    const paper = canvas.getContext("2d");
    paper.clearRect(0, 0, canvas.width, canvas.height);
    paper.lineCap = paper.lineJoin = "round";
    paper.strokeStyle = ink;
    for (const stroke of strokes) {
      paper.globalCompositeOperation = stroke.erases ? "destination-out" : "source-over";
      paper.lineWidth = stroke.width;
      paper.beginPath();
      paper.moveTo(...stroke.points[0]);
      for (const point of stroke.points) paper.lineTo(...point); // also to the first: a click makes a dot
      paper.stroke();
    }
  };

  const open = (board) => {
    const [photo, canvas] = [board.querySelector("img"), board.querySelector("canvas")];
    const find = (pen) => board.querySelector(`[data-pen=${pen}]`);
    const width = board.querySelector(".width");
    let strokes = kept.photo === photo.src ? [...kept.strokes] : [];
    let [erases, stroke] = [false, null];
    const closing = new AbortController(); // Gradio makes the next board of the same elements
    const listen = (target, kind, act) => target.addEventListener(kind, act, { signal: closing.signal });

    const show = () => {
      draw(canvas, strokes, INK);
      find("undo").disabled = find("clear").disabled = !strokes.length;
      find("done").disabled = !strokes.some((each) => !each.erases);
    };
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
    };
    listen(canvas, "pointerdown", (event) => {
      if (stroke || event.button) return;
      canvas.setPointerCapture(event.pointerId);
      stroke = { id: event.pointerId, erases, width: (width.value / 100) * Math.max(canvas.width, canvas.height), points: [place(event)] };
      strokes.push(stroke);
      show();
    });
    listen(canvas, "pointermove", (event) => {
      if (stroke?.id !== event.pointerId) return;
      stroke.points.push(...(event.getCoalescedEvents?.() ?? [event]).map(place));
      show();
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      listen(canvas, kind, (event) => { if (stroke?.id === event.pointerId) stroke = null; });
    }

    const use = () => {
      const mask = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
      draw(mask, strokes, "#fff");
      kept = { photo: photo.src, strokes };
      mask.toBlob((blob) => styler.setDrawing(new File([blob], "drawing.png", { type: "image/png" })));
      board.close();
    };
    const choose = (isEraser) => {
      erases = isEraser;
      find("brush").setAttribute("aria-pressed", String(!isEraser));
      find("eraser").setAttribute("aria-pressed", String(isEraser));
    };
    const ACTIONS = {
      brush: () => choose(false),
      eraser: () => choose(true),
      undo: () => { strokes.pop(); show(); },
      clear: () => { strokes = []; show(); },
      cancel: () => board.close(),
      done: use,
    };
    listen(board, "click", (event) => ACTIONS[event.target.closest("[data-pen]")?.dataset.pen]?.());
    // Without a drawing, its choice would mean nothing.
    listen(board, "close", () => {
      closing.abort();
      if (kept.photo === photo.src) return;
      document.querySelector("#protect label:nth-of-type(4) input:checked")?.click();
      if (document.querySelector("#region label:last-of-type input:checked")) document.querySelector("#region label input").click();
    });
    photo.decode().then(() => {
      [canvas.width, canvas.height] = [photo.naturalWidth, photo.naturalHeight];
      choose(false);
      show();
      board.showModal();
    });
  };

  styler.watchPage(() => {
    const board = document.querySelector("#board dialog");
    if (!board || board.dataset.number === shown) return;
    shown = board.dataset.number;
    open(board);
  });
})();
