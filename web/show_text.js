// Shows the text that a node gives to its user interface, in the node: T2V Schedule Inspect's table. Without this file the
// node works the same, and Preview Any can show its output.
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const NODES = ["T2VScheduleInspect"];

app.registerExtension({
  name: "t2v.show_text",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (!NODES.includes(nodeData.name)) return;
    const created = nodeType.prototype.onNodeCreated;
    nodeType.prototype.onNodeCreated = function (...args) {
      created?.apply(this, args);
      const { widget } = ComfyWidgets.STRING(this, "shown", ["STRING", { multiline: true }], app);
      widget.serialize = false; // not part of the workflow file
      widget.options.serialize = false; // nor of what is sent to be run
      const box = widget.inputEl ?? widget.element;
      box.readOnly = true;
      Object.assign(box.style, { fontFamily: "monospace", whiteSpace: "pre" });
      this.t2vShown = widget;
    };
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (message, ...args) {
      executed?.apply(this, [message, ...args]);
      if (message?.text && this.t2vShown) this.t2vShown.value = message.text.join("");
    };
  },
});
