"""An SMTP server that takes receipts and forgets them. SMTP servers speak first, which a mesh must not delay."""

import asyncio

from aiosmtpd.smtp import SMTP


class Forget:
    async def handle_DATA(self, server, session, envelope):
        return "250 receipt taken"


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Forget(), hostname="receipts"), host=["0.0.0.0", "::"], port=2525)
    await server.serve_forever()


asyncio.run(main())
