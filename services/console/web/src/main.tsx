import { render } from "preact";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/parts.css";
import "./styles/overlays.css";
import "./styles/frame.css";
import "./styles/tasks.css";
import "./styles/cause.css";
import "./styles/sagas.css";
import "./styles/health.css";
import { App } from "./app";
import { followOtherTabs, recognise } from "./lib/session";

render(<App />, document.getElementById("app") as HTMLElement);
followOtherTabs();
recognise();
