import { Image } from "chalkcompute";

Image.debianSlim("3.12").pipInstal("requests");
