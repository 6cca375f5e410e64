/* What explorers share: elements of the page, and their start once the page is there. */
(function () {
  "use strict";

  function fill(node, attributes, parent, text) {
    Object.keys(attributes || {}).forEach(function (name) { node.setAttribute(name, attributes[name]); });
    if (text !== undefined) { node.textContent = text; }
    if (parent) { parent.appendChild(node); }
    return node;
  }
  function make(tag, attributes, parent, text) {
    return fill(document.createElement(tag), attributes, parent, text);
  }
  function draw(tag, attributes, parent, text) {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, parent, text);
  }

  /* Build the explorer of this name at each of its places; its style sheet lies beside its script. */
  function start(name, build) {
    var script = document.currentScript;
    function begin() {
      var roots = document.querySelectorAll('[data-explorer="' + name + '"]');
      if (!roots.length) { return; }
      if (script && script.src) {
        make("link", { rel: "stylesheet", href: script.src.replace(/\.js(\?.*)?$/, ".css") }, document.head);
      }
      roots.forEach(build);
    }
    if (document.readyState === "loading") {
      document.addEventListener("DOMContentLoaded", begin);
    } else {
      begin();
    }
  }

  window.promptbook = window.promptbook || {};
  window.promptbook.page = { make: make, draw: draw, start: start };
})();
