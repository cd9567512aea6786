import chalkcompute = require("chalkcompute");

const image: chalkcompute.Image = chalkcompute.Image.debianSlim("3.12")
  .pipInstall(["requests", "pandas>=2.0"])
  .runCommands("apt-get update && apt-get install -y git curl")
  .workdir("/app")
  .env({ PROJECT_ROOT: "/app" });

const options: chalkcompute.HashOptions = { base: process.argv[2] };
void image.hash(options).then((hash: string) => console.log(hash));
