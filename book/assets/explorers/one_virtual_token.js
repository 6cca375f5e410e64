/* A transformer that says what one virtual token asks for, computed in the page.
 *
 * The layers of promptlib.prefix_tuning.constructions.unconditional, weight by weight: attention with
 * two heads through a softmax with the scale 1 / sqrt(d_k), an MLP with ReLU, an unembedding, greedy
 * decoding that reads back each symbol. A browser test compares every number with the library.
 * V printable characters of ASCII, N of them to say, beta the inverse temperature.
 */
(function () {
  "use strict";

  var V = 95, FIRST = 32, MOST = 24;

  /* ---- The transformer ---- */

  function zeros(rows, columns) {
    return Array.from({ length: rows }, function () { return new Float64Array(columns); });
  }
  function times(matrix, vector) {
    return matrix.map(function (row) {
      var sum = 0;
      for (var i = 0; i < row.length; i += 1) { sum += row[i] * vector[i]; }
      return sum;
    });
  }
  function softmax(logits) {
    var top = Math.max.apply(null, logits);
    var powers = logits.map(function (logit) { return Math.exp(logit - top); });
    var total = powers.reduce(function (a, b) { return a + b; }, 0);
    return powers.map(function (power) { return power / total; });
  }

  /* Slots of the stream: content 0..N-1, position N..2N-1, read 2N..3N-1, value 3N. */
  function weights(length, beta) {
    var width = 3 * length + 1;
    var heads = [0, 1].map(function (head) {
      var made = {
        query: zeros(length, width), key: zeros(length, width),
        value: zeros(length, width), output: zeros(width, length)
      };
      for (var i = 0; i < length; i += 1) {
        made.query[head === 0 ? i : 0][length + i] = beta * Math.sqrt(length);
        made.key[i][length + i] = 1;
        made.value[i][head === 0 ? length + i : i] = 1;
        made.output[2 * length + i][i] = 1;
      }
      return made;
    });
    var first = zeros(length, width), last = zeros(width, length);
    for (var k = 0; k < length; k += 1) {
      first[k][2 * length + k] = 1;
      last[3 * length][k] = 1;
    }
    var unembedding = zeros(V, width), bias = new Float64Array(V);
    for (var j = 0; j < V; j += 1) {
      unembedding[j][3 * length] = 2 * (j / V) - 1;
      bias[j] = 0.25 - (j / V) * (j / V);
    }
    return { width: width, heads: heads, first: first, last: last, unembedding: unembedding, bias: bias };
  }

  function generate(symbols, beta) {
    var length = symbols.length;
    var token = symbols.map(function (symbol) { return symbol / V; });
    var model = weights(length, beta);
    var caches = [{ keys: [], values: [] }, { keys: [], values: [] }];
    var content = token, steps = [];
    for (var at = 0; at < length; at += 1) {
      var stream = new Float64Array(model.width);
      content.forEach(function (entry, i) { stream[i] = entry; });
      stream[length + at] = 1;
      var added = new Float64Array(model.width);
      var attention = model.heads.map(function (head, number) {
        var query = times(head.query, stream), cache = caches[number];
        cache.keys.push(times(head.key, stream));
        cache.values.push(times(head.value, stream));
        var row = softmax(cache.keys.map(function (key) {
          var product = 0;
          for (var i = 0; i < length; i += 1) { product += query[i] * key[i]; }
          return product / Math.sqrt(length);
        }));
        var found = new Float64Array(length);
        row.forEach(function (weight, j) {
          for (var i = 0; i < length; i += 1) { found[i] += weight * cache.values[j][i]; }
        });
        times(head.output, found).forEach(function (entry, i) { added[i] += entry; });
        return row;
      });
      added.forEach(function (entry, i) { stream[i] += entry; });
      var hidden = times(model.first, stream).map(function (r) { return Math.max(0, r - 1); });
      times(model.last, hidden).forEach(function (entry, i) { stream[i] += entry; });
      var scores = times(model.unembedding, stream).map(function (score, j) { return score + model.bias[j]; });
      var best = scores.indexOf(Math.max.apply(null, scores));
      var targets = [at, 0];
      steps.push({
        attention: attention,
        leaks: attention.map(function (row, head) {
          return row.reduce(function (sum, weight, j) { return j === targets[head] ? sum : sum + weight; }, 0);
        }),
        read: Array.from(stream.slice(2 * length, 3 * length)),
        hidden: hidden, value: stream[3 * length], scores: scores, symbol: best, wanted: symbols[at]
      });
      content = new Array(length).fill(best / V);
    }
    return {
      token: token, steps: steps,
      symbols: steps.map(function (step) { return step.symbol; }),
      proved: length > 1 ? Math.log(4 * V * (length - 1)) : 0,
      critical: length > 1 ? Math.log((length - 1) * (4 * V - 3)) : -Infinity
    };
  }

  function encode(text) {
    var characters = Array.from(text);
    if (!characters.length) { throw new Error("The text is empty. Type at least one character."); }
    characters.forEach(function (character, place) {
      if (character < " " || character > "~") {
        var code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
        throw new Error("Character " + (place + 1) + ", “" + character + "” (U+" + code +
          "), is not printable ASCII. Use the characters from space to ~.");
      }
    });
    if (characters.length > MOST) {
      throw new Error("The text has " + characters.length + " characters. This transformer says at most " +
        MOST + ".");
    }
    return characters.map(function (character) { return character.charCodeAt(0) - FIRST; });
  }
  function character(symbol) { return String.fromCharCode(FIRST + symbol); }
  function visible(symbol) { return symbol === 0 ? "␣" : character(symbol); }
  function spoken(symbol) { return symbol === 0 ? "space" : character(symbol); }

  window.promptbook = window.promptbook || {};
  window.promptbook.oneVirtualToken = { encode: encode, generate: generate };

  /* ---- The page ---- */

  var page = window.promptbook.page, make = page.make, draw = page.draw;

  var HOTTEST = 16, WIDTH = 640, LEFT = 46, RIGHT = 10;

  function shown(number) {
    if (!isFinite(number)) { return "none"; }
    if (number !== 0 && Math.abs(number) < 0.001) { return number.toExponential(1); }
    return String(Number(number.toFixed(4)));
  }

  function build(root) {
    root.textContent = "";
    root.classList.add("token-ready");
    var state = { symbols: encode("say anything"), beta: 12, step: 4 };

    var controls = make("div", { class: "token-controls" }, root);
    function control(key, label) {
      var box = make("div", { class: "token-control" }, controls);
      var line = make("div", { class: "token-line" }, box);
      make("label", { for: root.id + "-" + key }, line, label);
      return { box: box, line: line };
    }
    var typing = control("text", "text to say (up to " + MOST + " characters)");
    var text = make("input", {
      id: root.id + "-text", type: "text", value: "say anything", autocomplete: "off",
      autocapitalize: "off", spellcheck: "false", "aria-describedby": root.id + "-problem"
    }, typing.box);
    var stepping = control("step", "look inside at character");
    var stepOutput = make("output", { for: root.id + "-step" }, stepping.line);
    var step = make("input", { id: root.id + "-step", type: "range", min: 1, step: 1 }, stepping.box);
    var cooling = control("beta", "inverse temperature β");
    var betaOutput = make("output", { for: root.id + "-beta" }, cooling.line);
    var beta = make("input", {
      id: root.id + "-beta", type: "range", min: 0, max: HOTTEST, step: 0.05, value: state.beta
    }, cooling.box);
    var problem = make("p", {
      id: root.id + "-problem", class: "token-problem", role: "status", "aria-live": "polite"
    }, root);

    var saying = make("p", { class: "token-saying" }, root);
    make("span", {}, saying, "The transformer says: ");
    var said = make("samp", { class: "token-said" }, saying);
    var note = make("p", { class: "token-note", "aria-live": "polite" }, root);
    var scale = panel("Inverse temperature", 74);
    var chart = {
      token: panel("Virtual token: one coordinate for each character", 150),
      own: panel("Attention of head 1, which looks for its own position (★ is the virtual token)", 124),
      first: panel("Attention of head 2, which looks for the virtual token ★", 124),
      read: panel("What both heads wrote to the stream; the line is at 1", 150),
      hidden: panel("After subtracting 1 and ReLU", 124),
      value: panel("Their sum, and the characters next to it", 110)
    };
    var table = make("table", { class: "token-table" }, root);
    var caption = make("caption", {}, table);
    var body = make("tbody", {}, table), cells = {};
    [
      ["proved", "β from which the proof holds"], ["critical", "β below which some text fails"],
      ["leak-own", "attention that misses, head 1"], ["leak-first", "attention that misses, head 2"],
      ["wanted", "number asked for"], ["found", "number found"], ["error", "error, in units of 1/(2V)"]
    ].forEach(function (entry) {
      var row = make("tr", {}, body);
      make("th", { scope: "row" }, row, entry[1]);
      cells[entry[0]] = make("td", { "data-number": entry[0] }, row);
    });

    function panel(title, height) {
      var figure = make("figure", { class: "token-figure" }, root);
      make("figcaption", {}, figure, title);
      return draw("svg", {
        viewBox: "0 0 " + WIDTH + " " + height, role: "img", class: "token-chart", "data-height": height
      }, figure);
    }
    function put(key, number) {
      cells[key].textContent = shown(number);
      cells[key].setAttribute("data-value", String(number));
    }

    /* Bars from 0 to top, one for each label; `marked` is drawn in the second colour. */
    function bars(svg, values, labels, top, marked, line) {
      svg.textContent = "";
      var height = Number(svg.getAttribute("data-height")), floor = height - 30, ceiling = 10;
      function y(value) { return floor - (Math.min(value, top) / top) * (floor - ceiling); }
      [0, 1].concat(top > 1 ? [top] : []).forEach(function (level) {
        draw("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(level), y2: y(level), class: "token-grid" }, svg);
        draw("text", { x: LEFT - 8, y: y(level) + 6, "text-anchor": "end" }, svg, String(level));
      });
      var room = (WIDTH - LEFT - RIGHT) / labels.length, wide = Math.min(0.7 * room, 40);
      labels.forEach(function (label, i) {
        var middle = LEFT + (i + 0.5) * room, value = values[i];
        if (value !== undefined) {
          draw("rect", {
            x: middle - wide / 2, width: wide, y: y(value), height: Math.max(0, floor - y(value)),
            class: i === marked ? "token-bar token-marked" : "token-bar"
          }, svg);
        }
        draw("text", {
          x: middle, y: height - 8, "text-anchor": "middle",
          class: i === marked ? "token-here" : value === undefined ? "token-unseen" : ""
        }, svg, label);
      });
      if (line) { draw("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(1), y2: y(1), class: "token-limit" }, svg); }
    }

    function temperature(result) {
      scale.textContent = "";
      function x(value) { return LEFT + (value / HOTTEST) * (WIDTH - LEFT - RIGHT - 30); }
      draw("line", { x1: x(0), x2: x(HOTTEST), y1: 34, y2: 34, class: "token-axis" }, scale);
      [0, 4, 8, 12, 16].forEach(function (tick) {
        draw("line", { x1: x(tick), x2: x(tick), y1: 34, y2: 40, class: "token-axis" }, scale);
        draw("text", { x: x(tick), y: 62, "text-anchor": "middle" }, scale, String(tick));
      });
      if (isFinite(result.critical)) {
        draw("line", { x1: x(result.proved), x2: x(result.proved), y1: 22, y2: 46, class: "token-limit" }, scale);
        draw("text", { x: x(result.proved), y: 15, "text-anchor": "middle" }, scale, "proved bound");
      }
      draw("circle", { cx: x(state.beta), cy: 34, r: 8, class: "token-dot" }, scale);
      scale.setAttribute("aria-label", "Inverse temperature " + shown(state.beta) +
        " on a scale from 0 to 16; the proved bound is " + shown(result.proved) + ".");
    }

    function number(svg, now) {
      svg.textContent = "";
      var around = Math.max(0, Math.min(V - 9, now.symbol - 4)), low = around - 0.7, high = around + 8.7;
      function x(place) { return LEFT + ((place - low) / (high - low)) * (WIDTH - LEFT - RIGHT); }
      var wanted = now.wanted;
      if (wanted > low && wanted < high) {
        draw("rect", { x: x(wanted - 0.5), width: x(1) - x(0), y: 22, height: 42, class: "token-band" }, svg);
      }
      draw("line", { x1: x(low), x2: x(high), y1: 43, y2: 43, class: "token-axis" }, svg);
      for (var j = around; j < around + 9; j += 1) {
        draw("line", { x1: x(j), x2: x(j), y1: 36, y2: 50, class: "token-axis" }, svg);
        draw("text", { x: x(j), y: 90, "text-anchor": "middle", class: j === now.symbol ? "token-here" : "" },
          svg, visible(j));
      }
      draw("circle", { cx: x(now.value * V), cy: 43, r: 8, class: "token-dot" }, svg);
      svg.setAttribute("aria-label", "The number " + now.value.toFixed(4) + " on a scale of characters; the nearest is " +
        spoken(now.symbol) + ", and " + spoken(wanted) + " was asked for.");
    }

    function redraw() {
      var symbols = state.symbols, result = generate(symbols, state.beta);
      var at = Math.min(state.step, symbols.length - 1), now = result.steps[at];
      step.max = String(symbols.length);
      step.value = String(at + 1);
      var where = (at + 1) + " of " + symbols.length + ": ";
      stepOutput.textContent = where + visible(symbols[at]);
      step.setAttribute("aria-valuetext", where + spoken(symbols[at]));
      betaOutput.textContent = state.beta.toFixed(2);
      beta.setAttribute("aria-valuetext", state.beta.toFixed(2));

      var wrong = 0;
      said.textContent = "";
      result.symbols.forEach(function (symbol, i) {
        if (symbol === symbols[i]) { said.appendChild(document.createTextNode(character(symbol))); return; }
        wrong += 1;
        make("mark", { class: "token-wrong" }, said, visible(symbol));
      });
      said.setAttribute("data-said", result.symbols.map(character).join(""));
      note.textContent = wrong === 0 ? "All characters are right. " : wrong + " of " + symbols.length +
        (wrong === 1 ? " characters is wrong. " : " characters are wrong. ");
      note.textContent += state.beta >= result.proved
        ? "β is above the proved bound, so no text of this length can go wrong."
        : state.beta > result.critical
          ? "β is just under the proved bound."
          : "β is too small: some text of this length goes wrong.";

      var labels = symbols.map(visible), last = symbols.length - 1;
      var positions = ["★"].concat(result.symbols.slice(0, last).map(visible));
      bars(chart.token, result.token, labels, 1, at);
      chart.token.setAttribute("aria-label", "Bars for " + symbols.map(spoken).join(" ") + "; at character " + (at + 1) + " the height is " +
        shown(result.token[at]) + ".");
      [["own", 0, at], ["first", 1, 0]].forEach(function (entry) {
        bars(chart[entry[0]], now.attention[entry[1]], positions, 1, entry[2]);
        chart[entry[0]].setAttribute("aria-label", "Attention over " + (at + 1) + " positions; the target gets " +
          shown(now.attention[entry[1]][entry[2]]) + ".");
      });
      bars(chart.read, now.read, labels, 2, at, true);
      chart.read.setAttribute("aria-label", "Coordinate " + (at + 1) + " is " + shown(now.read[at]) + "; the others are at most " +
        shown(Math.max.apply(null, [0].concat(now.read.filter(function (_, i) { return i !== at; })))) + ".");
      bars(chart.hidden, now.hidden, labels, 1, at);
      chart.hidden.setAttribute("aria-label", "Coordinate " + (at + 1) + " is " + shown(now.hidden[at]) + "; " +
        now.hidden.filter(function (h, i) { return i !== at && h > 0; }).length + " others are above zero.");
      number(chart.value, now);
      temperature(result);

      caption.textContent = "Inside the transformer at character " + (at + 1);
      put("proved", result.proved);
      put("critical", result.critical);
      put("leak-own", now.leaks[0]);
      put("leak-first", now.leaks[1]);
      put("wanted", result.token[at]);
      put("found", now.value);
      put("error", Math.abs(now.value - result.token[at]) * 2 * V);
    }

    text.addEventListener("input", function () {
      try {
        state.symbols = encode(text.value);
        problem.textContent = "";
        text.removeAttribute("aria-invalid");
      } catch (refused) {
        problem.textContent = refused.message + " Shown below is the last text that could be said.";
        text.setAttribute("aria-invalid", "true");
        return;
      }
      redraw();
    });
    step.addEventListener("input", function () { state.step = Number(step.value) - 1; redraw(); });
    beta.addEventListener("input", function () { state.beta = Number(beta.value); redraw(); });
    redraw();
  }

  page.start("one-virtual-token", build);
})();
