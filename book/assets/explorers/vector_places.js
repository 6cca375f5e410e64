/* One learned vector turned around a frozen model, computed in the page.
 *
 * The layers of notebooks.bridge.two_theories_one_layer.streams on bags of five tokens, one of them relevant, with Q = W = 1
 * and a right angle between context and signal; a browser test compares every number with the library.
 * A row has the coordinates context, signal, ask, out, voice. Plain functions first, then the page.
 */
(function () {
  "use strict";

  var TOKENS = 5, RELEVANT = 1, SHARE = 0.2, ODDS = 0.25, CONTENT_SCALE = 0.2;
  var CASES = [];
  [1, -1].forEach(function (label) {
    [[0, 0], [1, 1], [1, -1]].forEach(function (signs) { CASES.push({ label: label, signs: signs }); });
  });

  function softmax(logits) {
    var top = Math.max.apply(null, logits);
    var powers = logits.map(function (logit) { return Math.exp(logit - top); });
    var total = powers.reduce(function (a, b) { return a + b; }, 0);
    return powers.map(function (power) { return power / total; });
  }

  function bag(one, delta) {
    var rows = [];
    for (var t = 0; t < TOKENS; t += 1) {
      rows.push(t === RELEVANT
        ? [1, one.label, 0, 0, 0]
        : [-delta * one.signs[0], -delta * one.signs[1] * one.label, 0, 0, 0]);
    }
    return rows;
  }

  /* The logit that a reader needs to be right alone. */
  function neededLogit(delta) { return Math.log(delta / ODDS) / (1 + delta); }

  /* Scale of the opposed pair: readings.pair_scale, for c = 0.4. */
  function pairScale(delta) {
    function logSum(first, second) {
      var top = Math.max(first, second);
      return top + Math.log(Math.exp(first - top) + Math.exp(second - top));
    }
    var c = 2 * CONTENT_SCALE, others = Math.log(TOKENS - 1);
    return Math.max(
      Math.log(6),
      2 / 3 * (Math.log(2) + logSum(c, others - delta * c)),
      2 / delta * (Math.log(4 / ODDS) - logSum(-delta * c, others + delta * delta * c))
    );
  }

  /* A strength of 4 is the value that the theorem asks of the pair. */
  function learnedRows(setting) {
    if (setting.learned === "nothing") { return []; }
    if (setting.learned === "query") { return [[0, 0, setting.strength, 0, 0]]; }
    var scale = pairScale(setting.delta) / CONTENT_SCALE;
    return [1, -1].map(function (side) {
      var voice = side * setting.strength * setting.delta / SHARE - side * scale / 2;
      return [scale, side * scale / 2, 0, 0, voice];
    });
  }

  /* Both layers on one case. */
  function forward(setting, one) {
    var vectors = learnedRows(setting), content = bag(one, setting.delta);
    var reader = [0, 0, setting.factor * neededLogit(setting.delta), 0, 0];
    var rows = setting.behind ? content.concat(vectors) : vectors.concat(content);
    rows.push(reader);
    var attention = rows.map(function (query, i) {
      return softmax(rows.map(function (key, j) {
        if (setting.causal && j > i) { return -Infinity; }
        return CONTENT_SCALE * (query[0] * key[0] + query[1] * key[1]) + query[2] * key[0];
      }));
    });
    var out = attention.map(function (weights) {
      return weights.reduce(function (sum, weight, j) { return sum + weight * (rows[j][1] + rows[j][4]); }, 0);
    });
    var sharpness = 60 / Math.max(Math.abs(reader[2]), 1e-6);
    var second = softmax(rows.map(function (key) { return sharpness * reader[2] * key[2]; }));
    return {
      attention: attention,
      out: out,
      contentStart: setting.behind ? 0 : vectors.length,
      learnedStart: setting.behind ? TOKENS : 0,
      learnedCount: vectors.length,
      secondLayer: second.reduce(function (sum, weight, j) { return sum + weight * out[j]; }, 0)
    };
  }

  function scoreOf(done, what) {
    if (what === "reader") { return done.out[done.out.length - 1]; }
    if (what === "own row") { return done.out[done.learnedStart]; }
    if (what === "second layer") { return done.secondLayer; }
    var sum = 0;
    for (var t = 0; t < TOKENS; t += 1) { sum += done.out[done.contentStart + t]; }
    return sum / TOKENS;
  }

  function relative(done) {
    var start = done.contentStart;
    return done.attention.slice(start, start + TOKENS).map(function (row) {
      var among = row.slice(start, start + TOKENS);
      var total = among.reduce(function (a, b) { return a + b; }, 0);
      return among.map(function (weight) { return weight / total; });
    });
  }

  /* Every case: scores, which are right, and by how much relative attention moved. */
  function read(setting) {
    var moved = 0;
    var found = CASES.map(function (one) {
      var done = forward(setting, one);
      var frozen = relative(forward(Object.assign({}, setting, { learned: "nothing" }), one));
      relative(done).forEach(function (row, i) {
        row.forEach(function (weight, j) { moved = Math.max(moved, Math.abs(weight - frozen[i][j])); });
      });
      var score = scoreOf(done, setting.read);
      return { done: done, score: score, right: one.label * score > 1e-9 };
    });
    return { cases: found, moved: moved };
  }

  window.promptbook = window.promptbook || {};
  window.promptbook.vectorPlaces = {
    read: read,
    /* The same without what a test need not know. */
    plain: function (setting) {
      var result = read(setting);
      return {
        scores: result.cases.map(function (one) { return one.score; }),
        right: result.cases.filter(function (one) { return one.right; }).length,
        attention: result.cases.map(function (one) { return one.done.attention; }),
        moved: result.moved
      };
    }
  };

  /* ---- The page ---- */

  var page = window.promptbook.page, make = page.make, draw = page.draw;

  var CHOICES = [
    { key: "learned", name: "learned", options: [["query", "one vector that asks"], ["pair", "two opposed vectors"], ["nothing", "nothing"]] },
    { key: "behind", name: "where", options: [["front", "in front of the bag"], ["behind", "behind the bag"]] },
    { key: "causal", name: "mask", options: [["causal", "causal"], ["none", "none"]] },
    { key: "read", name: "read", options: [["reader", "the reader"], ["own row", "the vector's own row"], ["all content rows", "all content rows, averaged"], ["second layer", "the reader, in a second layer"]] }
  ];
  var KNOBS = [
    { key: "delta", name: "deviation Δ", low: 1, high: 100, start: 6, log: true },
    { key: "strength", name: "strength of what is learned", low: 0, high: 8, start: 4 },
    { key: "factor", name: "reader's logit, of what it needs alone", low: 0, high: 2, start: 0.5 }
  ];
  var STEPS = 80;

  function valueAt(knob, share) {
    return knob.log
      ? knob.low * Math.pow(knob.high / knob.low, share)
      : knob.low + (knob.high - knob.low) * share;
  }
  function shareOf(knob, value) {
    return knob.log
      ? Math.log(value / knob.low) / Math.log(knob.high / knob.low)
      : (value - knob.low) / (knob.high - knob.low);
  }
  function shown(value) { return String(Number(value.toPrecision(3))); }

  function build(root) {
    var setting = { learned: "query", behind: false, causal: true, read: "own row" };
    KNOBS.forEach(function (knob) { setting[knob.key] = knob.start; });
    root.textContent = "";
    var controls = make("div", { class: "places-controls" }, root);
    var selects = {};
    CHOICES.forEach(function (choice) {
      var box = make("div", { class: "places-control" }, controls), id = root.id + "-" + choice.key;
      make("label", { for: id }, box, choice.name);
      var select = make("select", { id: id }, box);
      choice.options.forEach(function (option) { make("option", { value: option[0] }, select, option[1]); });
      select.addEventListener("change", function () { choose(choice.key, select.value); });
      selects[choice.key] = select;
    });
    selects.read.value = setting.read;
    KNOBS.forEach(function (knob) {
      var box = make("div", { class: "places-control" }, controls), id = root.id + "-" + knob.key;
      var line = make("div", { class: "places-line" }, box);
      make("label", { for: id }, line, knob.name);
      var output = make("output", { for: id }, line, shown(knob.start));
      var slider = make("input", {
        id: id, type: "range", min: 0, max: STEPS, step: 1, value: Math.round(STEPS * shareOf(knob, knob.start))
      }, box);
      slider.setAttribute("aria-valuetext", shown(knob.start));
      slider.addEventListener("input", function () {
        setting[knob.key] = valueAt(knob, Number(slider.value) / STEPS);
        output.textContent = shown(setting[knob.key]);
        slider.setAttribute("aria-valuetext", shown(setting[knob.key]));
        redraw();
      });
    });
    var note = make("p", { class: "places-note", "aria-live": "polite" }, root);
    var sides = make("div", { class: "places-sides" }, root);
    var svg = draw("svg", { role: "img", class: "places-map" }, sides);
    var table = make("table", { class: "places-table" }, sides);
    make("caption", {}, table, "Every case; the map shows y = 1, δ = (Δ, Δ)");
    var head = make("tr", {}, make("thead", {}, table));
    ["y", "δ", "score", "sign"].forEach(function (name) { make("th", { scope: "col" }, head, name); });
    var body = make("tbody", {}, table);

    function choose(key, value) {
      if (key === "behind") { setting.behind = value === "behind"; }
      else if (key === "causal") { setting.causal = value === "causal"; }
      else { setting[key] = value; }
      // Only one vector has an own row to read.
      selects.read.options[1].disabled = setting.learned !== "query";
      if (setting.learned !== "query" && setting.read === "own row") {
        setting.read = selects.read.value = "all content rows";
      }
      redraw();
    }

    function redraw() {
      var result = read(setting), count = 0;
      body.textContent = "";
      result.cases.forEach(function (one, place) {
        var row = make("tr", {}, body), signs = CASES[place].signs;
        count += one.right;
        make("td", {}, row, CASES[place].label > 0 ? "1" : "−1");
        make("td", {}, row, signs[0] === 0 ? "(0, 0)" : signs[1] > 0 ? "(Δ, Δ)" : "(Δ, −Δ)");
        make("td", {}, row, Math.abs(one.score) < 5e-4 ? "0" : one.score.toFixed(3));
        make("td", { class: one.right ? "places-right" : "places-wrong" }, row, one.right ? "right" : "wrong");
      });
      note.textContent = count + " of 6 cases right. The content's relative attention moved by at most " +
        (result.moved === 0 ? "0" : result.moved.toExponential(0)) + ".";
      paint(result.cases[1].done, count);
    }

    function paint(done, count) {
      var size = done.attention.length, cell = 40, side = size * cell;
      svg.textContent = "";
      svg.setAttribute("viewBox", "-4 -4 " + (side + 8) + " " + (side + 8));
      done.attention.forEach(function (row, i) {
        row.forEach(function (weight, j) {
          if (setting.causal && j > i) { return; }
          draw("rect", { x: j * cell, y: i * cell, width: cell, height: cell, class: "places-cell", "fill-opacity": (0.06 + 0.94 * weight).toFixed(3) }, svg);
        });
      });
      if (done.learnedCount) {
        draw("rect", { x: done.learnedStart * cell, y: 0, width: done.learnedCount * cell, height: side, class: "places-learned" }, svg);
      }
      var first = size - 1, rows = 1;
      if (setting.read === "own row") { first = done.learnedStart; }
      if (setting.read === "all content rows") { first = done.contentStart; rows = TOKENS; }
      draw("rect", { x: 0, y: first * cell, width: side, height: rows * cell, class: "places-read" }, svg);
      svg.setAttribute("aria-label",
        "First-layer attention of " + size + " rows on the bag with y = 1, δ = (Δ, Δ); learned columns and the rows " +
        "that are read are framed; " + count + " of 6 cases right.");
    }
    redraw();
  }

  page.start("vector-places", build);
})();
