import "./styles/page.css";
import { App } from "./app.js";

void new App().start();
