// Small things that the pages do by themselves: ledger filters, wide formulas, folded code.
"use strict";

function whenReady(run) {
  if (document.readyState === "loading") {
    document.addEventListener("DOMContentLoaded", run);
  } else {
    run();
  }
}

// The ledger: selects narrow the table; the address remembers the choice.
function bringLedgerToLife() {
  const form = document.querySelector("form.ledger-filters");
  if (!form) {
    return;
  }
  const selects = Array.from(form.querySelectorAll("select"));
  const rows = Array.from(document.querySelectorAll("#ledger tbody tr"));
  const count = form.querySelector(".ledger-count");
  const update = () => {
    let shown = 0;
    for (const row of rows) {
      const fits = selects.every(
        (select) => !select.value || row.getAttribute("data-" + select.dataset.key) === select.value
      );
      row.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    count.textContent = `Showing ${shown} of ${rows.length} claims`;
  };
  form.addEventListener("change", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(update));
  form.hidden = false;
  update();
}

// A link to a claim in the ledger must find its row, whatever the filters hide.
function revealTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const row = target && target.closest("#ledger tr");
  if (row && row.hidden) {
    document.querySelector("form.ledger-filters").reset();
    setTimeout(() => row.scrollIntoView());
  }
}

// What is wider than the column scrolls inside its own box, and the keyboard must reach it.
function reachWideParts() {
  const boxes = document.querySelectorAll(
    "div.math mjx-container, span.math, .cell_output .output, div.highlight pre, .pst-scrollable-table-container, .build-table, .figure-frame"
  );
  for (const box of boxes) {
    const scrolls = box.scrollWidth > box.clientWidth + 1;
    if (scrolls) {
      box.tabIndex = 0;
    } else if (box.tabIndex === 0) {
      box.removeAttribute("tabindex");
    }
  }
}

whenReady(() => {
  bringLedgerToLife();
  revealTarget();
  window.addEventListener("hashchange", revealTarget);
  const observer = new ResizeObserver(reachWideParts);
  for (const column of document.querySelectorAll("#main-content, article")) {
    observer.observe(column);
  }
  window.addEventListener("load", () => {
    const typeset = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    Promise.resolve(typeset).then(reachWideParts);
  });
});
