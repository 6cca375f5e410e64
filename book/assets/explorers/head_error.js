/* The error of a learned head, computed in the page.
 *
 * The same closed forms as notebooks.prompt_attention.price_of_the_head.concentrated_head, and the ridge formula of
 * promptlib.prompt_attention.ridge_head for constant signal and noise; a browser test compares them.
 * Symbols: Q, W norms of context and signal, zeta sparsity, kappa prompt scale, sigma noise,
 * T tokens, alpha bags per dimension, lambda ridge. Plain functions first, then the page.
 */
(function () {
  "use strict";

  /* Normal distribution function, to about 1e-15: a series with positive terms near zero, a
   * continued fraction in the tails. */
  function normalCdf(z) {
    var x = Math.abs(z) / Math.SQRT2;
    var tail;
    if (x < 2.5) {
      var term = x, sum = x;
      for (var n = 1; n < 80; n += 1) {
        term *= (2 * x * x) / (2 * n + 1);
        sum += term;
      }
      tail = 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
    } else if (x < 27) {
      var fraction = x;
      for (var k = 80; k >= 1; k -= 1) { fraction = x + k / 2 / fraction; }
      tail = Math.exp(-x * x) / (Math.sqrt(Math.PI) * fraction);
    } else {
      tail = 0;
    }
    return z < 0 ? tail / 2 : 1 - tail / 2;
  }

  /* Signal x = A W and noise tau of a feature when there are many tokens. */
  function concentratedLaw(p) {
    var relevant = Math.log(p.zeta) + p.kappa * p.Q * p.Q;
    var spread = Math.pow(p.kappa * p.Q * p.sigma, 2);
    var irrelevant = Math.log1p(-p.zeta) + spread / 2;
    var top = Math.max(relevant, irrelevant);
    var total = top + Math.log(Math.exp(relevant - top) + Math.exp(irrelevant - top));
    return {
      mass: Math.exp(relevant - total),
      signal: p.W * Math.exp(relevant - total),
      noise: p.sigma * Math.exp(Math.log((1 - p.zeta) / p.T) / 2 + spread - total)
    };
  }

  /* Larger root of gamma t² - (lambda + (1 - gamma) tau²) t - lambda tau² = 0. */
  function effectiveRidge(squaredNoise, gamma, lambda) {
    var middle = lambda + (1 - gamma) * squaredNoise;
    var last = lambda * squaredNoise;
    var root = Math.sqrt(middle * middle + 4 * gamma * last);
    if (middle > 0) { return (middle + root) / (2 * gamma); }
    return last === 0 ? 0 : (2 * last) / (root - middle);
  }

  /* Cosine between the ridge head and w*; lambda = Infinity is averaging. */
  function ridgeCosine(law, alpha, lambda) {
    var x = law.signal, squared = law.noise * law.noise, gamma = 1 / alpha;
    if (lambda === Infinity) { return x / Math.sqrt(x * x + squared * gamma); }
    var theta = effectiveRidge(squared, gamma, lambda);
    var weight = 1 / (theta + squared);
    var along = (x * weight) / (gamma + x * x * weight);
    var shared = squared * weight * weight;
    var above = shared * Math.pow(1 - x * along, 2) + along * along * shared * squared;
    var below = theta > 0 ? lambda / theta + theta * shared : gamma - 1;
    return below > 0 ? along / Math.sqrt(along * along + above / below) : 0;
  }

  function errors(p) {
    var law = concentratedLaw(p);
    var ratio = law.signal / law.noise;
    function at(lambda) { return normalCdf(-ratio * ridgeCosine(law, p.alpha, lambda)); }
    return {
      leastSquares: at(0),
      ridge: at(p.lambda),
      averaging: at(Infinity),
      known: normalCdf(-ratio),
      ratio: ratio,
      mass: law.mass,
      variation: Math.exp(4 * Math.pow(p.kappa * p.Q * p.sigma, 2)) - 1
    };
  }

  window.promptbook = window.promptbook || {};
  window.promptbook.headError = { errors: errors, normalCdf: normalCdf };

  /* ---- The page ---- */

  var page = window.promptbook.page, make = page.make, draw = page.draw;

  var KNOBS = [
    { key: "Q", name: "context norm Q", low: 0, high: 4, start: 1.5 },
    { key: "zeta", name: "sparsity ζ", low: 0.005, high: 0.5, start: 0.2, log: true },
    { key: "kappa", name: "prompt scale κ", low: 0, high: 2, start: 0.5 },
    { key: "alpha", name: "bags per dimension α", low: 0.1, high: 20, start: 2, log: true },
    { key: "lambda", name: "ridge λ", low: 0.0001, high: 100, start: 0.02, log: true },
    { key: "W", name: "signal norm W", low: 0.05, high: 2, start: 0.5, log: true },
    { key: "T", name: "tokens T", low: 10, high: 5000, start: 100, log: true, whole: true }
  ];
  var CURVES = [
    { key: "leastSquares", name: "least squares" },
    { key: "ridge", name: "ridge λ" },
    { key: "averaging", name: "averaging" },
    { key: "known", name: "known head" }
  ];
  var STEPS = 200;
  var FRAME = { width: 640, height: 360, left: 52, right: 26, top: 34, bottom: 60 };

  function valueAt(knob, share) {
    var value = knob.log
      ? knob.low * Math.pow(knob.high / knob.low, share)
      : knob.low + (knob.high - knob.low) * share;
    return knob.whole ? Math.round(value) : value;
  }
  function shareOf(knob, value) {
    return knob.log
      ? Math.log(value / knob.low) / Math.log(knob.high / knob.low)
      : (value - knob.low) / (knob.high - knob.low);
  }
  function shown(value) {
    return value === 0 ? "0" : String(Number(value.toPrecision(3)));
  }
  function ticksOf(knob) {
    if (!knob.log) {
      return [0, 0.25, 0.5, 0.75, 1].map(function (share) { return valueAt(knob, share); });
    }
    var ticks = [], decades = Math.log10(knob.high / knob.low);
    var factors = decades > 3 ? [1] : decades > 2 ? [1, 3] : [1, 2, 5];
    for (var power = -6; power < 6; power += 1) {
      factors.forEach(function (factor) {
        var tick = Number((factor * Math.pow(10, power)).toPrecision(1));
        if (tick >= knob.low * 0.999 && tick <= knob.high * 1.001) { ticks.push(tick); }
      });
    }
    return ticks;
  }

  function build(root) {
    var state = { sigma: 1 };
    KNOBS.forEach(function (knob) { state[knob.key] = knob.start; });
    var axis = KNOBS[3];
    root.textContent = "";
    root.classList.add("explorer-ready");

    var controls = make("div", { class: "explorer-controls" }, root);
    var chooser = make("div", { class: "explorer-control" }, controls);
    make("label", { for: root.id + "-axis" }, chooser, "horizontal axis");
    var select = make("select", { id: root.id + "-axis" }, chooser);
    KNOBS.slice(0, 5).forEach(function (knob) {
      var option = make("option", { value: knob.key }, select, knob.name);
      option.selected = knob === axis;
    });
    var outputs = {};
    KNOBS.forEach(function (knob) {
      var id = root.id + "-" + knob.key;
      var box = make("div", { class: "explorer-control" }, controls);
      var line = make("div", { class: "explorer-line" }, box);
      make("label", { for: id }, line, knob.name);
      outputs[knob.key] = make("output", { for: id }, line, shown(knob.start));
      var slider = make("input", {
        id: id, type: "range", min: 0, max: STEPS, step: 1,
        value: Math.round(STEPS * shareOf(knob, knob.start)), "data-knob": knob.key
      }, box);
      slider.setAttribute("aria-valuetext", shown(knob.start));
      slider.addEventListener("input", function () {
        state[knob.key] = valueAt(knob, Number(slider.value) / STEPS);
        outputs[knob.key].textContent = shown(state[knob.key]);
        slider.setAttribute("aria-valuetext", shown(state[knob.key]));
        redraw();
      });
    });
    select.addEventListener("change", function () {
      axis = KNOBS.filter(function (knob) { return knob.key === select.value; })[0];
      redraw();
    });

    var figure = make("div", { class: "explorer-figure" }, root);
    var svg = draw("svg", {
      viewBox: "0 0 " + FRAME.width + " " + FRAME.height, role: "img", class: "explorer-chart"
    }, figure);
    var table = make("table", { class: "explorer-table" }, root);
    make("caption", {}, table, "Test error at this setting (σ = 1)");
    var body = make("tbody", {}, table);
    var cells = {};
    CURVES.forEach(function (curve) {
      var row = make("tr", {}, body);
      var head = make("th", { scope: "row" }, row);
      make("span", { class: "explorer-key explorer-" + curve.key, "aria-hidden": "true" }, head);
      head.appendChild(document.createTextNode(curve.name));
      cells[curve.key] = make("td", { "data-curve": curve.key }, row);
    });
    var note = make("p", { class: "explorer-note", "aria-live": "polite" }, root);

    function redraw() {
      var now = errors(state);
      CURVES.forEach(function (curve) { cells[curve.key].textContent = now[curve.key].toFixed(4); });
      note.textContent = "Signal-to-noise ratio R = " + shown(now.ratio) + "; " +
        Math.round(100 * now.mass) + " % of the attention is on the relevant tokens. " +
        (now.variation > state.T
          ? "Caution: the prompt is so long that bags of " + state.T + " tokens are read unequally " +
            "well, and these closed forms are off."
          : 10 * now.variation > state.T
            ? "With " + state.T + " tokens bags are read somewhat unequally well, and these closed " +
              "forms are approximate."
            : "With " + state.T + " tokens all bags are read about alike.");
      svg.textContent = "";
      var inner = {
        width: FRAME.width - FRAME.left - FRAME.right, height: FRAME.height - FRAME.top - FRAME.bottom
      };
      function left(share) { return FRAME.left + share * inner.width; }
      function top(error) { return FRAME.top + (1 - error / 0.5) * inner.height; }
      [0, 0.1, 0.2, 0.3, 0.4, 0.5].forEach(function (level) {
        draw("line", { x1: left(0), x2: left(1), y1: top(level), y2: top(level), class: "explorer-grid" }, svg);
        draw("text", { x: FRAME.left - 8, y: top(level) + 5, "text-anchor": "end" }, svg, String(level));
      });
      ticksOf(axis).forEach(function (tick) {
        var x = left(shareOf(axis, tick));
        draw("line", { x1: x, x2: x, y1: top(0), y2: top(0) + 5, class: "explorer-tick" }, svg);
        draw("text", { x: x, y: top(0) + 26, "text-anchor": "middle" }, svg, shown(tick));
      });
      draw("text", {
        x: left(0.5), y: FRAME.height - 8, "text-anchor": "middle", class: "explorer-title"
      }, svg, axis.name);
      draw("text", { x: left(0), y: 16, class: "explorer-title" }, svg, "test error");
      var places = [];
      for (var i = 0; i <= STEPS; i += 1) { places.push([i / STEPS, valueAt(axis, i / STEPS)]); }
      if (axis.key === "alpha") { places.push([shareOf(axis, 1), 1]); } // the tip of the peak
      places.sort(function (a, b) { return a[0] - b[0]; });
      var computed = places.map(function (place) {
        var p = Object.assign({}, state);
        p[axis.key] = place[1];
        return errors(p);
      });
      CURVES.forEach(function (curve) {
        var points = places.map(function (place, index) {
          return left(place[0]).toFixed(2) + "," + top(computed[index][curve.key]).toFixed(2);
        });
        draw("polyline", { points: points.join(" "), class: "explorer-curve explorer-" + curve.key }, svg);
        draw("circle", {
          cx: left(shareOf(axis, state[axis.key])), cy: top(now[curve.key]), r: 5,
          class: "explorer-dot explorer-" + curve.key
        }, svg);
      });
      svg.setAttribute("aria-label",
        "Test error, from 0 to 0.5, against " + axis.name + ", at " + shown(state[axis.key]) + ": " +
        CURVES.map(function (curve) { return curve.name + " " + now[curve.key].toFixed(3); }).join(", "));
    }
    redraw();
  }

  page.start("head-error", build);
})();
