// Shows the text that a node gives to its user interface, in the node: T2V Schedule Inspect's table, and what T2V Load
// Model and T2V Load LoRA recognised, and T2V Windows Preview's plan. Without this file the nodes work the same.
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

// A table is what its node is for, so its box is there from the start; other text makes room for itself when it comes.
const NODES = {
  T2VScheduleInspect: { atOnce: true, whiteSpace: "pre" },
  T2VLoadModel: { atOnce: false, whiteSpace: "pre-wrap" },
  T2VWindowsPreview: { atOnce: false, whiteSpace: "pre-wrap" },
  T2VLoadLora: { atOnce: false, whiteSpace: "pre-wrap" },
};

function addBox(node, whiteSpace) {
  const { widget } = ComfyWidgets.STRING(node, "shown", ["STRING", { multiline: true }], app);
  widget.serialize = false; // not part of the workflow file
  widget.options.serialize = false; // nor of what is sent to be run
  const box = widget.inputEl ?? widget.element;
  box.readOnly = true;
  Object.assign(box.style, { fontFamily: "monospace", whiteSpace });
  return widget;
}

function makeRoom(node) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
}

app.registerExtension({
  name: "t2v.show_text",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (!Object.hasOwn(NODES, nodeData.name)) return;
    const { atOnce, whiteSpace } = NODES[nodeData.name];
    const created = nodeType.prototype.onNodeCreated;
    nodeType.prototype.onNodeCreated = function (...args) {
      created?.apply(this, args);
      if (atOnce) this.t2vShown = addBox(this, whiteSpace);
    };
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (message, ...args) {
      executed?.apply(this, [message, ...args]);
      if (!message?.text) return;
      if (!this.t2vShown) {
        this.t2vShown = addBox(this, whiteSpace);
        makeRoom(this);
      }
      this.t2vShown.value = message.text.join("");
    };
  },
});
